package mqtts_test

import (
	"flag"
	"fmt"
	"io"
	"log"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// produced are the codes that reports of these tests had.
var produced sync.Map

func noteProduced(r *mqtts.Report) {
	for _, d := range r.Diagnosis {
		produced.Store(d.Code, true)
	}
	for _, c := range r.Checks {
		for _, d := range c.Diagnosis {
			produced.Store(d.Code, true)
		}
	}
}

// A suite runs all tests, and then sees that every code was diagnosed in one of
// them: a code that nothing leads to would be a promise that is not kept.
type suite struct{ *testing.M }

func (s suite) Run() int {
	log.SetOutput(io.Discard) // of brokers that write there
	status := s.M.Run()
	for _, partial := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if f := flag.Lookup(partial); f != nil && f.Value.String() != "" {
			return status
		}
	}
	if status != 0 {
		return status
	}
	for _, code := range mqtts.Codes() {
		if _, ok := produced.Load(code); !ok {
			fmt.Printf("FAIL: no test leads to %s\n", code)
			status = 1
		}
	}
	return status
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// contract are the codes that others rely on: they never go away.
const contract = `tcp_refused tcp_timeout dns_failure tls_handshake_timeout plaintext_listener not_mqtt_http not_mqtt_ssh
websocket_listener websocket_refused tls_version_mismatch tls_cipher_mismatch alpn_mismatch server_unknown_ca
server_missing_intermediate server_same_name_other_key server_certificate_expired server_certificate_not_yet_valid
server_name_mismatch server_common_name_only server_wrong_usage server_revoked server_broken_key staple_invalid
client_certificate_required client_unknown_ca client_crl_missing client_certificate_expired
client_certificate_not_yet_valid client_wrong_usage client_certificate_revoked broker_crl_expired_or_clock
client_certificate_not_requested client_certificate_not_enforced client_rejected_silently connack_bad_credentials
connack_not_authorized connack_server_unavailable connack_unsupported_version connack_client_id_rejected
connack_malformed connack_timeout mqtt3_only subscribe_denied publish_not_delivered session_present_unexpected
revoked_accepted revoked_accepted_by_resumption foreign_accepted expired_accepted old_tls_accepted plaintext_accepted
trust_bundle_unreadable`

func TestContract(t *testing.T) {
	codes := mqtts.Codes()
	for code := range strings.FieldsSeq(contract) {
		if !slices.Contains(codes, mqtts.Code(code)) {
			t.Errorf("there is no %s", code)
		}
	}
}
