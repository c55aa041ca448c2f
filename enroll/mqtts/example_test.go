package mqtts_test

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A port where nothing listens: the report says at which step the run ended, why,
// and what mends it.
func ExampleVerify() {
	root := &x509.Certificate{} // of the trust bundle
	report := mqtts.Verify(context.Background(), mqtts.Target{
		URL:   "mqtts://127.0.0.1:1",
		Roots: []*x509.Certificate{root},
	})
	fmt.Println(report.Verdict, "at", report.Failed().Name)
	for _, d := range report.Diagnosis {
		fmt.Printf("%s %s: %s\n", d.Severity, d.Code, d.Message)
	}
	// Output:
	// fail at tcp
	// error tcp_refused: Nothing accepts connections on 127.0.0.1:1: connection refused.
}
