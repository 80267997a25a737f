# shellcheck shell=bash
# Certificates of an authority of our own, in $D/ca.pem. Source it after lib.sh.

# quietly COMMAND..: its output is shown only when it fails, and then the script ends.
quietly() { "$@" >"$D/out" 2>&1 || die "$*: $(tail -n 5 "$D/out")"; }

authority_make() {
  quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
    -keyout "$D/ca-key.pem" -out "$D/ca.pem"
}

# certificate FILE NAME..: FILE-key.pem, FILE.pem for these names, and FILE-chain.pem with the authority behind it.
certificate() {
  local file=$1 names
  shift
  names=$(printf ',DNS:%s' "$@")
  quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=host -keyout "$file-key.pem" -out "$file-req.pem"
  quietly openssl x509 -req -in "$file-req.pem" -CA "$D/ca.pem" -CAkey "$D/ca-key.pem" -CAcreateserial -days 2 \
    -extfile <(echo "subjectAltName = ${names#,}") -out "$file.pem"
  cat "$file.pem" "$D/ca.pem" >"$file-chain.pem"
}

# tlsa_key FILE.pem, tlsa_cert FILE.pem: the SHA-256 of its public key (selector 1) or of the whole (selector 0), in hex.
tlsa_key() { openssl x509 -in "$1" -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum | cut -d ' ' -f 1; }
tlsa_cert() { openssl x509 -in "$1" -outform DER | sha256sum | cut -d ' ' -f 1; }
