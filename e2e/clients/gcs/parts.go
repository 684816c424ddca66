package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// parts takes uploads in parts, which the server knows nothing of, and hands each to it as one PUT when it is complete: the
// metadata is what the first request of an upload said ("Initiate a multipart upload", XML API reference).
type parts struct {
	whole http.Handler
	mutex sync.Mutex
	begun int
	open  map[string]*upload
}

type upload struct {
	header http.Header
	parts  map[int][]byte
}

func newParts(whole http.Handler) *parts {
	return &parts{whole: whole, open: map[string]*upload{}}
}

// ServeHTTP takes what is about an upload in parts, and passes everything else on.
func (p *parts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	id := query.Get("uploadId")
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		p.begin(w, r)
	case id == "" || strings.HasPrefix(r.URL.Path, "/upload/"):
		p.whole.ServeHTTP(w, r)
	case r.Method == http.MethodPut:
		p.take(w, r, id)
	case r.Method == http.MethodPost:
		p.complete(w, r, id)
	case r.Method == http.MethodDelete:
		p.mutex.Lock()
		defer p.mutex.Unlock()
		delete(p.open, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "not known", http.StatusMethodNotAllowed)
	}
}

func (p *parts) begin(w http.ResponseWriter, r *http.Request) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.begun++
	id := strconv.Itoa(p.begun)
	p.open[id] = &upload{header: r.Header.Clone(), parts: map[int][]byte{}}
	answer(w, struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		UploadID string   `xml:"UploadId"`
	}{UploadID: id})
}

// find returns an upload that was begun, or answers that there is none. The caller holds the lock.
func (p *parts) find(w http.ResponseWriter, id string) *upload {
	open := p.open[id]
	if open == nil {
		http.Error(w, "NoSuchUpload", http.StatusNotFound)
	}
	return open
}

func (p *parts) take(w http.ResponseWriter, r *http.Request, id string) {
	number, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
	if err != nil {
		http.Error(w, "partNumber is no number", http.StatusBadRequest)
		return
	}
	part, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	open := p.find(w, id)
	if open == nil {
		return
	}
	open.parts[number] = part
	w.Header().Set("ETag", etag(number))
}

func (p *parts) complete(w http.ResponseWriter, r *http.Request, id string) {
	var list struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&list); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	open := p.find(w, id)
	if open == nil {
		return
	}
	var body bytes.Buffer
	for _, part := range list.Part {
		content, found := open.parts[part.PartNumber]
		if !found || part.ETag != etag(part.PartNumber) {
			http.Error(w, "InvalidPart", http.StatusBadRequest)
			return
		}
		body.Write(content)
	}
	put := r.Clone(r.Context())
	put.Method, put.Header = http.MethodPut, open.header
	put.URL.RawQuery = ""
	put.Body, put.ContentLength = io.NopCloser(&body), int64(body.Len())
	put.Header.Set("Content-Length", strconv.Itoa(body.Len()))
	stored := &outcome{header: http.Header{}, status: http.StatusOK}
	p.whole.ServeHTTP(stored, put)
	if stored.status != http.StatusOK {
		http.Error(w, stored.body.String(), stored.status)
		return
	}
	delete(p.open, id)
	answer(w, struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		ETag    string
	}{ETag: `"none"`})
}

func etag(part int) string {
	return fmt.Sprintf(`"%d"`, part)
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/xml")
	// Who no longer listens does not want to know.
	_ = xml.NewEncoder(w).Encode(value)
}

// outcome is what the server says of a PUT.
type outcome struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (o *outcome) Header() http.Header             { return o.header }
func (o *outcome) WriteHeader(status int)          { o.status = status }
func (o *outcome) Write(piece []byte) (int, error) { return o.body.Write(piece) }
