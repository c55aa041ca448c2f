//go:build cloudkms

package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// awsKMS answers as the AWS key management service does to GetPublicKey and
// Sign, for one P-256 key.
func awsKMS(t *testing.T, key *ecdsa.PrivateKey) *httptest.Server {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			KeyId, MessageType, SigningAlgorithm string
			Message                              []byte
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		answer := map[string]any{"KeyId": request.KeyId}
		switch _, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); call {
		case "GetPublicKey":
			answer["PublicKey"], answer["KeySpec"], answer["KeyUsage"] = public, "ECC_NIST_P256", "SIGN_VERIFY"
			answer["SigningAlgorithms"] = []string{"ECDSA_SHA_256"}
		case "Sign":
			if request.MessageType != "DIGEST" || request.SigningAlgorithm != "ECDSA_SHA_256" {
				t.Errorf("asked for %+v", request)
			}
			signature, err := ecdsa.SignASN1(rand.Reader, key, request.Message)
			if err != nil {
				t.Error(err)
			}
			answer["Signature"], answer["SigningAlgorithm"] = signature, request.SigningAlgorithm
		default:
			t.Errorf("asked for %s", call)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(s.Close)
	return s
}

// A key in a cloud's key store is opened by its URI, and passes the self-test or
// is refused, as a file's.
func TestCloudKeyStore(t *testing.T) {
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, other := newKey(), newKey()
	t.Setenv("AWS_ENDPOINT_URL_KMS", awsKMS(t, key).URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	const uri = "awskms:key-id=0b5f6a3c-9c53-4e2d-8c55-5a2f1b9f1e11;region=eu-central-1"
	signer, err := ca.Keyring{}.Open(t.Context(), uri, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(signer.Public()) {
		t.Error("another key was opened")
	}
	if _, err := (ca.Keyring{}).Open(t.Context(), uri, &other.PublicKey); !errors.Is(err, ca.IsKind(ca.KindKey)) {
		t.Errorf("another certificate's key: %v", err)
	}
	for _, uri := range []string{"tpmkms:name=none;device=/dev/no-tpm", "azurekms:name=key;vault=none?environment=x"} {
		if _, err := (ca.Keyring{}).Open(t.Context(), uri, &key.PublicKey); !errors.Is(err, ca.IsKind(ca.KindKey)) || strings.Contains(err.Error(), "built without") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
