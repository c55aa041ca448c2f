#!/bin/sh
# Makes testdata/csr: certification requests as OpenSSL writes them, of every
# kind of key and signature that ParseRequest decides about. The keys are
# thrown away. Run in testdata; needs openssl 3.
set -eu
key=$(mktemp)
trap 'rm -f "$key"' EXIT
make() { # name, digest option, genpkey options...
	name=$1 digest=$2
	shift 2
	openssl genpkey -quiet -out "$key" "$@" 2>/dev/null || openssl genpkey -out "$key" "$@" 2>/dev/null
	openssl req -new -key "$key" $digest -subj "/CN=device-1" -out "csr/$name.pem"
}
rsa() { make "$1" "$2" -algorithm RSA -pkeyopt "rsa_keygen_bits:$3" -pkeyopt "rsa_keygen_pubexp:$4"; }
rsa rsa-1024 -sha256 1024 65537
rsa rsa-2048 -sha256 2048 65537
rsa rsa-2048-sha512 -sha512 2048 65537
rsa rsa-2048-sha1 -sha1 2048 65537
rsa rsa-2048-md5 -md5 2048 65537
rsa rsa-2048-e3 -sha256 2048 3
rsa rsa-2048-e-large -sha256 2048 4294967297
rsa rsa-2560 -sha256 2560 65537
rsa rsa-3072 -sha256 3072 65537
rsa rsa-4096 -sha256 4096 65537
make rsa-2048-pss "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest" -algorithm RSA -pkeyopt rsa_keygen_bits:2048
make rsa-2048-pss-long-salt "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:max" -algorithm RSA -pkeyopt rsa_keygen_bits:2048
make rsa-pss-key -sha256 -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048
for curve in P-224 P-256 P-384 P-521 secp256k1 brainpoolP256r1; do
	make "ec-$curve" -sha256 -algorithm EC -pkeyopt "ec_paramgen_curve:$curve"
done
make ec-P-256-sha1 -sha1 -algorithm EC -pkeyopt ec_paramgen_curve:P-256
make ec-P-256-explicit -sha256 -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit
make ed25519 "" -algorithm ED25519
make ed448 "" -algorithm ED448
