package enroll_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const dayLong = 24 * time.Hour

func TestParseQuery(t *testing.T) {
	for text, want := range map[string]enroll.DeviceFilter{
		"":                                 {},
		" \t ":                             {},
		"status:active":                    {Status: enroll.DeviceActive},
		"group:hall-2 order:WO-7":          {Group: "hall-2", WorkOrder: "WO-7"},
		"serial:AB:12":                     {Serial: "ab12"},
		"expires<30d expires>7d":           {ExpiresUnder: 30 * dayLong, ExpiresOver: 7 * dayLong},
		"expires<100y":                     {ExpiresUnder: 100 * 365 * dayLong},
		"expires:expired":                  {Expired: true},
		"attr.site:a attr.rev:C":           {Attributes: map[string]string{"site": "a", "rev": "C"}},
		`attr.site:"Hall \"2\" \\ x"`:      {Attributes: map[string]string{"site": `Hall "2" \ x`}},
		`attr."my: name":""`:               {Attributes: map[string]string{"my: name": ""}},
		"pump-00":                          {Prefix: "pump-00"},
		"*PUMP* pu":                        {Match: "*PUMP*", Prefix: "pu"},
		`"*a:b <c*"`:                       {Match: "*a:b <c*"},
		"attr.x:a:b":                       {Attributes: map[string]string{"x": "a:b"}},
		"status:held  *größe*  group:g.1 ": {Status: enroll.DeviceHeld, Match: "*größe*", Group: "g.1"},
	} {
		got, err := enroll.ParseQuery(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
			continue
		}
		again, err := enroll.ParseQuery(got.Query())
		if err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%q written as %q is %+v, %v", text, got.Query(), again, err)
		}
	}
}

// A query that cannot be read says which term, and what may stand there.
func TestParseQueryRefusals(t *testing.T) {
	for text, names := range map[string][2]string{
		"status:lost":                {`"status:lost"`, "registered, active"},
		"status:active status:held":  {`"status:held"`, "give one"},
		"colour:red":                 {`"colour:red"`, "attr.NAME:"},
		"Status:active":              {`"Status:active"`, "status:"},
		"group:":                     {`"group:"`, "1 to 64"},
		"group:a/b":                  {`"group:a/b"`, "1 to 64"},
		"serial:xyz":                 {`"serial:xyz"`, "hexadecimal"},
		"expires<30":                 {`"expires<30"`, "30d"},
		"expires<0d":                 {`"expires<0d"`, "30d"},
		"expires<999999y":            {`"expires<999999y"`, "100y"},
		"expires:soon":               {`"expires:soon"`, "expires:expired"},
		"status<active":              {`"status<active"`, "status:"},
		"attr.:x":                    {`"attr.:x"`, "attr.NAME"},
		"attr.a:1 attr.a:2":          {`"attr.a:2"`, "give one"},
		"a b":                        {`"b"`, "give one"},
		"größe":                      {`"größe"`, "A-Z"},
		"**":                         {`"**"`, "beside the *"},
		`"open`:                      {`"\"open"`, "closing"},
		"expires:expired expires<3d": {"expires:expired", "one of them"},
		"a\x00b":                     {"control", "control"},
		strings.Repeat("a ", 4000):   {"8000 octets", "shorten"},
	} {
		f, err := enroll.ParseQuery(text)
		own, ok := errors.AsType[*ca.Error](err)
		if !ok || own.Kind != ca.KindMalformed || own.Field != "q" || !strings.Contains(own.Message, names[0]) || !strings.Contains(own.Hint, names[1]) {
			t.Errorf("%.40q: %+v, %#v", text, f, err)
		}
		if !reflect.DeepEqual(f, enroll.DeviceFilter{}) {
			t.Errorf("%.40q was refused, and filters %+v", text, f)
		}
	}
}

// What is read is written so that it is read the same.
func FuzzParseQuery(f *testing.F) {
	for _, text := range []string{"status:active group:x order:WO-7 expires<30d expires>7d serial:ab12 attr.key:value name", `attr."a b":"c\"d\\" *x*`, "expires:expired", `"*:<>"`, "\\ \" :"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := enroll.ParseQuery(text)
		if err != nil {
			if own, ok := errors.AsType[*ca.Error](err); !ok || own.Kind != ca.KindMalformed || own.Hint == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := enroll.ParseQuery(first.Query())
		if err != nil || !reflect.DeepEqual(first, again) {
			t.Fatalf("%q is %+v, and written as %q it is %+v, %v", text, first, first.Query(), again, err)
		}
	})
}

func TestFilterHolds(t *testing.T) {
	d := &enroll.Device{ID: "Pump-7", Group: "Hall", Attributes: map[string]string{"site": "Köln*", "n": ""}}
	for _, c := range []struct {
		filter enroll.DeviceFilter
		want   bool
	}{
		{enroll.DeviceFilter{Match: "*UMP*"}, true},
		{enroll.DeviceFilter{Match: "pump*7"}, true},
		{enroll.DeviceFilter{Match: "*p*p*p*"}, false},
		{enroll.DeviceFilter{Match: "ump*"}, false},
		{enroll.DeviceFilter{Match: "*all"}, true},
		{enroll.DeviceFilter{Match: "*ök*"}, false},
		{enroll.DeviceFilter{Match: "*öln*"}, true},
		{enroll.DeviceFilter{Match: "*site*"}, false}, // a name is no value
		{enroll.DeviceFilter{Attributes: map[string]string{"n": ""}}, true},
		{enroll.DeviceFilter{Attributes: map[string]string{"m": ""}}, false},
		{enroll.DeviceFilter{Attributes: map[string]string{"site": "köln*"}}, false},
	} {
		if got := c.filter.Holds(d); got != c.want {
			t.Errorf("%q: %t", c.filter.Query(), got)
		}
	}
}
