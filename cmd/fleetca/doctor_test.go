package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// A server that is down and has a broker to drive is a warning.
func TestDoctorDrivers(t *testing.T) {
	t.Parallel()
	dir := dataDir(filepath.Join(t.TempDir(), "data"))
	mustRun(t, "init", "--data", string(dir))
	st, err := store.Open(t.Context(), store.Config{URL: dir.databaseURL("")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now := time.Now()
	b := enroll.Broker{ID: "hall", URL: "mqtts://hall.example:8883", Kind: "mosquitto", Status: enroll.BrokerRegistered, CreatedAt: now}
	if err := st.CreateBroker(t.Context(), b, enroll.Change{Event: enroll.TestDataEvent()}); err != nil {
		t.Fatal(err)
	}
	d := &doctor{dir: dir, store: st}
	for ago, want := range map[time.Duration]string{0: "", time.Minute: "broker hall waits for ca-1:/data, which is down: last seen at"} {
		if err := st.AnnounceDrivers(t.Context(), "ca-1:/data", []string{"hall"}, now.Add(-ago)); err != nil {
			t.Fatal(err)
		}
		_, err := d.drivers(t.Context())
		_, warned := errors.AsType[warning](err)
		if warned != (want != "") || warned && (!strings.Contains(err.Error(), want) || !strings.Contains(hintOf(err), "start that server")) {
			t.Errorf("seen %v ago: %v", ago, err)
		}
	}
}
