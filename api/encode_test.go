package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Answers are kept as encoding/json writes them: a replay is the same bytes.
func TestEncodesAsAnswersAreKept(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 12, 0, 0, 123456000, time.UTC)
	cert := &ca.Certificate{
		SerialNumber: "4a01", Subject: "CN=d-1,O=A & B <é\u2028\x7f>", Status: ca.StatusRevoked, Reason: ca.ReasonSuperseded, RevokedAt: at,
		NotBefore: at, NotAfter: at.Add(time.Hour), Holder: ca.Holder{Kind: ca.HolderDevice, ID: "d-1"}, DER: make([]byte, 600),
	}
	for _, v := range []any{
		cert,
		*cert,
		&enroll.Enrollment{DeviceID: "d-1", Certificate: cert, Chain: cert.PEM(), Warnings: []string{"a < b"}},
		BatchResult{Index: 3, Status: created, DeviceID: "d-1", Enrollment: &enroll.Enrollment{Certificate: cert}},
		List[*ca.Certificate]{Items: []*ca.Certificate{cert}, NextCursor: "x&y"},
		map[string]any{"b": nil, "a": []string(nil), "n": 1e21, "e": json.RawMessage(`{"y": "<&>"}`)},
	} {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(string(encodeJSON(v)), "\n"); got != string(want) {
			t.Errorf("%T\nwrites %s\nis kept as %s", v, got, want)
		}
	}
}
