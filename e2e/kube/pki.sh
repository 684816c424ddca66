#!/usr/bin/env bash
# pki.sh — makes what is missing of the cluster's keys, certificates and kubeconfigs.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$PKI"; cd "$PKI"; umask 077

key() { [ -s "$1.key" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
ca() { # ca NAME
  [ -s "$1.crt" ] && return
  key "$1"
  openssl req -x509 -new -key "$1.key" -days 3650 -subj "/CN=$1" -out "$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}
cert() { # cert NAME CA SUBJECT [SAN]
  [ -s "$1.crt" ] && return
  key "$1"
  printf '%s\n' basicConstraints=CA:FALSE keyUsage=critical,digitalSignature \
    extendedKeyUsage=serverAuth,clientAuth ${4:+"subjectAltName=$4"} >"$1.ext"
  openssl req -new -key "$1.key" -subj "$3" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 3650 -out "$1.crt" \
    -extfile "$1.ext" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
kubeconfig() { # kubeconfig NAME: uses NAME.crt
  cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: sqlite-operator-local, cluster: {server: "$API_URL", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: sqlite-operator-local, context: {cluster: sqlite-operator-local, user: u}}]
current-context: sqlite-operator-local
YAML
}

ca ca
ca front-proxy-ca
[ -s sa.key ] || openssl genrsa -out sa.key 2048 2>/dev/null
[ -s sa.pub ] || openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
names+=,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$HOST_IP,IP:$SVC_NET.0.1
cert apiserver ca /CN=kube-apiserver "$names"
cert front-proxy-client front-proxy-ca /CN=front-proxy-client
cert apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client
cert admin ca /O=system:masters/CN=admin
cert controller-manager ca /CN=system:kube-controller-manager
cert scheduler ca /CN=system:kube-scheduler
cert kube-proxy ca /CN=system:kube-proxy
for n in $(seq "$NODES"); do
  # The Node authorizer wants exactly this subject.
  cert "node$n" ca "/O=system:nodes/CN=system:node:node$n" "DNS:node$n,IP:$(node_ip "$n")"
done
for c in admin controller-manager scheduler kube-proxy $(seq -f node%g "$NODES"); do kubeconfig "$c"; done
