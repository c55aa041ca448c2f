package ca_test

import (
	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
	kmsapi "go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/softkms"
)

// What package ca leans on in libraries whose versions begin with 0. An
// upgrade that changes one of these does not compile.
var (
	_ apiv1.CertificateAuthorityService      = (*softcas.SoftCAS)(nil)
	_ apiv1.CertificateAuthorityCRLGenerator = (*softcas.SoftCAS)(nil)
	_ apiv1.CertificateAuthoritySigner       = (*softcas.SoftCAS)(nil)
	_ kmsapi.KeyManager                      = (*softkms.SoftKMS)(nil)
	_ error                                  = kmsapi.NotFoundError{}
)
