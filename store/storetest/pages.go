package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

var pagingTests = []test{
	{"pages under inserts leave nothing out and repeat nothing", func(f *fixture) {
		var want []string
		for n := range 25 {
			want = append(want, string(f.enroll(fmt.Sprintf("m%02d", n)).SerialNumber))
		}
		var got []string
		n := 0
		for cursor := ""; ; n++ {
			page, next, err := f.store.Certificates(f.ctx, enroll.CertificateFilter{}, enroll.Page{Limit: 4, Cursor: cursor})
			f.must(err)
			if len(page) > 4 {
				f.Fatalf("%d items in a page of 4", len(page))
			}
			for _, c := range page {
				got = append(got, string(c.SerialNumber))
			}
			if cursor = next; next == "" {
				break
			}
			f.enroll(fmt.Sprintf("a%02d", n)) // before and after the devices that are listed
			f.enroll(fmt.Sprintf("z%02d", n))
		}
		slices.Reverse(want) // newest first
		if !slices.Equal(got, want) {
			f.Fatalf("got  %v\nwant %v", got, want)
		}
	}},
	{"the last page has no cursor, also when it is full", func(f *fixture) {
		for n := range 4 {
			f.enroll(fmt.Sprint("d", n))
		}
		for limit, pages := range map[int]int{2: 2, 4: 1, 5: 1, 3: 2} {
			cursor, n := "", 0
			for ; n == 0 || cursor != ""; n++ {
				_, next, err := f.store.Devices(f.ctx, enroll.DeviceFilter{}, enroll.Page{Limit: limit, Cursor: cursor})
				f.must(err)
				cursor = next
			}
			if n != pages {
				f.Errorf("%d pages of %d, want %d", n, limit, pages)
			}
		}
	}},
	{"certificates are filtered", func(f *fixture) {
		f.broker("b1")
		a, b, c := f.enroll("d1"), f.enroll("d2"), f.enroll("d3")
		f.revoke("d2", ca.ReasonSuperseded)
		f.must(f.store.HoldDevice(f.ctx, "d3", f.now, f.change("device.hold", "device:d3")))
		old := f.enrollment("d4")
		old.Certificate.NotAfter = f.now.Add(-time.Second)
		f.must(f.commit(old))
		broker := ca.Issuance{Certificate: f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: "b1"}), Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:b1")}}
		broker.Certificate.Profile, broker.Certificate.IssuerID = "broker", "brokers"
		f.must(f.commit(broker))
		e, d := broker.Certificate, old.Certificate
		for _, c := range []struct {
			filter enroll.CertificateFilter
			want   []ca.Certificate
		}{
			{enroll.CertificateFilter{}, []ca.Certificate{e, d, c, b, a}},
			{enroll.CertificateFilter{Status: ca.StatusGood}, []ca.Certificate{e, a}},
			{enroll.CertificateFilter{Status: ca.StatusHeld}, []ca.Certificate{c}},
			{enroll.CertificateFilter{Status: ca.StatusRevoked}, []ca.Certificate{b}},
			{enroll.CertificateFilter{Status: ca.StatusExpired}, []ca.Certificate{d}},
			{enroll.CertificateFilter{Device: "d1"}, []ca.Certificate{a}},
			{enroll.CertificateFilter{Device: "b1"}, nil},
			{enroll.CertificateFilter{Broker: "b1"}, []ca.Certificate{e}},
			{enroll.CertificateFilter{Profile: "broker"}, []ca.Certificate{e}},
			{enroll.CertificateFilter{Issuer: "devices", Status: ca.StatusGood}, []ca.Certificate{a}},
		} {
			got := every(f, func(p enroll.Page) ([]*ca.Certificate, string, error) {
				return f.store.Certificates(f.ctx, c.filter, p)
			})
			same := slices.EqualFunc(got, c.want, func(g *ca.Certificate, w ca.Certificate) bool { return g.SerialNumber == w.SerialNumber })
			if !same {
				f.Errorf("filter %+v gives %d certificates, want %d", c.filter, len(got), len(c.want))
			}
		}
	}},
	{"devices are filtered", func(f *fixture) {
		f.order("o1", 9)
		for n, group := range []string{"red", "blue", "red"} {
			i := f.enrollment(fmt.Sprint("d", n))
			claimOf(i).Device.Group = group
			if n == 2 {
				claimOf(i).Order = "o1"
			}
			f.must(f.commit(i))
		}
		f.revoke("d0", ca.ReasonSuperseded)
		for _, c := range []struct {
			filter enroll.DeviceFilter
			want   []string
		}{
			{enroll.DeviceFilter{}, []string{"d0", "d1", "d2"}},
			{enroll.DeviceFilter{Group: "red"}, []string{"d0", "d2"}},
			{enroll.DeviceFilter{Group: "red", Status: enroll.DeviceActive}, []string{"d2"}},
			{enroll.DeviceFilter{Status: enroll.DeviceRevoked}, []string{"d0"}},
			{enroll.DeviceFilter{WorkOrder: "o1"}, []string{"d2"}},
			{enroll.DeviceFilter{WorkOrder: "none"}, nil},
		} {
			var got []string
			for _, d := range every(f, func(p enroll.Page) ([]*enroll.Device, string, error) { return f.store.Devices(f.ctx, c.filter, p) }) {
				got = append(got, d.ID)
			}
			if !slices.Equal(got, c.want) {
				f.Errorf("filter %+v gives %v, want %v", c.filter, got, c.want)
			}
		}
	}},
	{"a cursor that was not given is refused", func(f *fixture) {
		for n := range 3 {
			f.enroll(fmt.Sprint("d", n))
		}
		_, ofDevices, err := f.store.Devices(f.ctx, enroll.DeviceFilter{}, enroll.Page{Limit: 1})
		f.must(err)
		for _, cursor := range []string{"x", "!", ofDevices, ofDevices[1:], "e30", "bnVsbA", "WzEsMiwzXQ"} {
			_, _, err := f.store.Certificates(f.ctx, enroll.CertificateFilter{}, enroll.Page{Limit: 1, Cursor: cursor})
			f.wantKind(err, ca.KindMalformed)
		}
	}},
}
