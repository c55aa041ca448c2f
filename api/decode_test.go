package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// fieldOf returns the field of a malformed error.
func fieldOf(t *testing.T, err error) string {
	t.Helper()
	var e *ca.Error
	if !errors.As(err, &e) || e.Kind != ca.KindMalformed {
		t.Fatalf("got %v, want an error of kind malformed", err)
	}
	return e.Field
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ name, body, field string }{
		{"empty", "", ""},
		{"white space", " \n", ""},
		{"no object", `["deviceId"]`, ""},
		{"null", `null`, ""},
		{"cut off", `{"deviceId":"a"`, ""},
		{"trailing data", `{"deviceId":"a"} {}`, ""},
		{"trailing comma", `{"deviceId":"a",}`, ""},
		{"bad UTF-8", "{\"deviceId\":\"\xff\"}", ""},
		{"unknown", `{"deviceID2":"a"}`, "deviceID2"},
		{"other case", `{"DeviceId":"a"}`, "DeviceId"},
		{"twice", `{"deviceId":"a","csr":"x","deviceId":"b"}`, "deviceId"},
		{"twice, escaped", `{"deviceId":"a","device\u0049d":"b"}`, "deviceId"},
		{"twice in a map", `{"attributes":{"a":"1","a":"2"}}`, "attributes.a"},
		{"wrong type", `{"deviceId":7}`, "deviceId"},
		{"object for string", `{"csr":{"a":"b"}}`, "csr"},
		{"wrong type in a map", `{"attributes":{"a":1}}`, "attributes.a"},
		{"list for a map", `{"attributes":["a"]}`, "attributes"},
		{"unknown in embedding", `{"idempotencyKey":"k","nope":1}`, "nope"},
		{"deep", strings.Repeat(`{"csr":`, 8000) + "1" + strings.Repeat("}", 8000), "csr"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var item BatchItem
			field := fieldOf(t, decodeJSON([]byte(c.body), &item))
			if field != c.field {
				t.Errorf("field %q, want %q", field, c.field)
			}
		})
	}
	for body, want := range map[string]string{
		`{"deviceId":7}`:            `is the number 7 where a string belongs` + "\n" + `write it as "text"`,
		`{"attributes":["a"]}`:      "is a list where an object belongs\nwrite it as {...}",
		`{"attributes":{"a":true}}`: "is a boolean where a string belongs\nwrite it as \"text\"",
	} {
		var e *ca.Error
		if err := decodeJSON([]byte(body), new(BatchItem)); !errors.As(err, &e) || e.Message+"\n"+e.Hint != want {
			t.Errorf("%s: %v", body, err)
		}
	}
	var token enroll.NewToken
	if field := fieldOf(t, decodeJSON([]byte(`{"expiresAt":"tomorrow"}`), &token)); field != "expiresAt" {
		t.Errorf("a bad time: field %q", field)
	}
	if field := fieldOf(t, decodeJSON([]byte(`{"uses":1.5}`), &token)); field != "uses" {
		t.Errorf("a fraction: field %q", field)
	}
	if field := fieldOf(t, decodeJSON([]byte(`{"uses":1e400}`), &token)); field != "uses" {
		t.Errorf("a large number: field %q", field)
	}
	var broker enroll.NewBroker
	if field := fieldOf(t, decodeJSON([]byte(`{"names":["a",{"b":1}]}`), &broker)); field != "names[1]" {
		t.Errorf("an object in a list: field %q", field)
	}
}

func TestDecodeAccepts(t *testing.T) {
	var item BatchItem
	err := decodeJSON([]byte(" {\"deviceId\":\"a\",\"attributes\":{\"A\":\"1\",\"a\":\"2\"},\"idempotencyKey\":\"k\",\"token\":null}\r\n"), &item)
	if err != nil {
		t.Fatal(err)
	}
	if item.DeviceID != "a" || item.IdempotencyKey != "k" || len(item.Attributes) != 2 {
		t.Errorf("got %+v", item)
	}
	var token enroll.NewToken
	if err := decodeJSON([]byte(`{"expiresAt":"2030-01-02T03:04:05Z","uses":3}`), &token); err != nil || token.Uses != 3 || token.ExpiresAt == nil {
		t.Errorf("got %+v, %v", token, err)
	}
	item = BatchItem{}
	if err := decodeJSON([]byte(`{"deviceId":"a","csr":"\ud800"}`), &item); err != nil || item.DeviceID != "a" || item.CSR != "\ufffd" {
		t.Errorf("half a surrogate pair: %+v, %v", item, err)
	}
	if err := decodeJSON([]byte(`{}`), &nothing{}); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"deviceId":"a","attributes":{"a":"b"}}`))
	f.Add([]byte(`{"a":[[[{"b":null}]]]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var item BatchItem
		if err := decodeJSON(body, &item); err != nil {
			fieldOf(t, err)
		}
	})
}
