package enroll_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func TestParseManifest(t *testing.T) {
	fingerprint := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		csv  string
		want string // part of the error; empty for none
	}{
		"serial numbers":             {"subjectSerial,deviceId\nSN 1,a\nSN 2,b\n", ""},
		"as a spreadsheet writes it": {"\uFEFFdeviceId , sha256\r\n\"a\"," + strings.ToUpper(fingerprint) + "\r\n", ""},
		"colons":                     {"deviceId,certificateSerial\na,00:9F:01\n", ""},
		"quotes and commas":          {"deviceId,subjectSerial\na,\"PID:\"\"X\"\", SN:1\"\n", ""},
		"an empty cell":              {"deviceId,subjectSerial,sha256\na,1,\nb,," + fingerprint + "\n", ""},

		"nothing":                        {"", "no first line"},
		"a header alone":                 {"deviceId,subjectSerial\n", "no device"},
		"no column of devices":           {"subjectSerial\n1\n", "no column deviceId"},
		"an unknown column":              {"deviceId,serial\na,1\n", `"serial" is not known`},
		"a column twice":                 {"deviceId,deviceId\na,b\n", "twice"},
		"a short line":                   {"deviceId,subjectSerial\na,1\nb\n", "line 3"},
		"an open quote":                  {"deviceId,subjectSerial\na,\"1\n", "cannot be read"},
		"nothing about the certificate":  {"deviceId,subjectSerial\na,\n", "line 2: says nothing"},
		"no device":                      {"deviceId,subjectSerial\n,1\n", "line 2: deviceId"},
		"a device twice":                 {"deviceId,subjectSerial\na,1\na,2\n", "line 3: device a is on line 2"},
		"a certificate twice":            {"deviceId,subjectSerial\na,1\n\nb,1\n", "line 4: subjectSerial 1 is on line 2"},
		"a fingerprint in two spellings": {"deviceId,sha256\na," + fingerprint + "\nb," + strings.ToUpper(fingerprint) + "\n", "line 3: sha256"},
		"a path as device":               {"deviceId,subjectSerial\n../a,1\n", "line 2: deviceId"},
		"the canary":                     {"deviceId,subjectSerial\n" + enroll.CanaryID + ",1\n", "line 2: deviceId"},
		"control characters":             {"deviceId,subjectSerial\na,\"1\x00\"\n", "line 2: subjectSerial"},
		"a long serial number":           {"deviceId,subjectSerial\na," + strings.Repeat("1", 65) + "\n", "line 2: subjectSerial"},
		"not UTF-8":                      {"deviceId,subjectSerial\na,\xff\n", "line 2: subjectSerial"},
		"no hex":                         {"deviceId,certificateSerial\na,0x1g\n", "line 2: serialNumber"},
		"a short fingerprint":            {"deviceId,sha256\na,abcd\n", "line 2: sha256"},
		"a formula as work order":        {"deviceId,subjectSerial,workOrder\na,1,=1+1\n", "line 2: workOrder"},
	} {
		entries, err := enroll.ParseManifest(strings.NewReader(c.csv))
		if c.want == "" {
			if err != nil || len(entries) == 0 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		e, ok := errors.AsType[*ca.Error](err)
		if !ok || e.Kind != ca.KindMalformed || e.Field != "csv" || e.Hint == "" || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Whatever the bytes are, they end in entries that are sound, or in an error
// that says what to mend.
func FuzzParseManifest(f *testing.F) {
	f.Add("deviceId,subjectSerial,certificateSerial,sha256,workOrder\na,SN 1,0a,,WO\n")
	f.Add("\uFEFFdeviceId,sha256\r\n\"a\"\"b\",ff\r\n")
	f.Add("deviceId\n\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := enroll.ParseManifest(strings.NewReader(text))
		if err != nil {
			e, ok := errors.AsType[*ca.Error](err)
			if !ok || e.Kind != ca.KindMalformed || e.Hint == "" || entries != nil {
				t.Fatalf("%v, %v", entries, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, e := range entries {
			if enroll.CheckDeviceID("deviceId", e.DeviceID) != nil || seen[e.DeviceID] || e.SubjectSerial+string(e.CertificateSerial)+e.SHA256 == "" {
				t.Fatalf("%+v", e)
			}
			seen[e.DeviceID] = true
			if e.SHA256 != "" && len(e.SHA256) != 64 || len(e.SubjectSerial) > 64 || len(e.CertificateSerial) > 40 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
