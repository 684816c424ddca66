// A server that stands for Google Cloud Storage in tests: fake-gcs-server, which of the XML API takes uploads only by signed
// URLs, and answers them without an entity tag. Google's takes them by token too ("PUT Object", XML API reference), and in parts
// (parts.go).
//
//	gcs ADDRESS BUCKET
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: gcs ADDRESS BUCKET")
	}
	address, bucket := os.Args[1], os.Args[2]
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		NoListener: true, Scheme: "http", PublicHost: address, ExternalURL: "http://" + address,
	})
	if err != nil {
		log.Fatal(err)
	}
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	handler := server.HTTPHandler()
	log.Fatal(http.ListenAndServe(address, newParts(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			query := r.URL.Query()
			query.Set("X-Goog-Algorithm", "none")
			r.URL.RawQuery = query.Encode()
			w.Header().Set("ETag", `"none"`)
		}
		handler.ServeHTTP(w, r)
	}))))
}
