// Downloads one object: bare_consumer NATS_URL STORE KEY FILE. The bare level of docs/PROTOCOL.md.
package main

import (
	"encoding/json"
	"fmt"
	"github.com/nats-io/nats.go"
	"hash/crc64"
	"log"
	"os"
	"regexp"
	"time"
)

const window = 4 * 520_192 // how many bytes may arrive before they are reported as written: four of the largest chunks
var nvme = crc64.MakeTable(0x9a6c9329ac4bc9b5)
var ids = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func download(nc *nats.Conn, store, key string, file *os.File) {
	inbox := nc.NewInbox()
	messages := must(nc.SubscribeSync(inbox))
	accepted := struct {
		Transfer, Instance, Control, Key        string
		Start, End, Size, Credit, Chunks, Bytes int64 // chunks and bytes are those of the end
	}{Start: -1, End: -1, Credit: -1, Chunks: -1, Bytes: -1} // wrong if they are missing
	var chunks, written, reported, waits int64
	request := map[string]any{"key": key, "window": window, "chunk_max": nc.MaxPayload() - 4096}
	check(nc.PublishRequest("gantry.v1.get."+store, inbox, must(json.Marshal(request))))
	for {
		m := must(messages.NextMsg(10 * time.Second)) // fails on silence, and when there is no relay
		kind, transfer := m.Header.Get("Gantry-Type"), m.Header.Get("Gantry-Transfer")
		switch begun := accepted.Control != ""; {
		case kind == "beat" && !begun:
			continue // the relay is still opening the object
		case kind == "accepted" && !begun:
			check(json.Unmarshal(m.Data, &accepted))
			id := accepted.Instance + "." + transfer
			isOwn := ids.MatchString(id) && accepted.Control == "gantry.v1.ctl."+id && accepted.Transfer == transfer
			if !isOwn || accepted.Key != key || accepted.Start != 0 || accepted.End != accepted.Size || accepted.Credit > window {
				log.Fatalf("not what was requested: %s", m.Data)
			}
		case kind != "chunk" && kind != "beat" && kind != "end" || !begun || transfer != accepted.Transfer:
			log.Fatalf("the transfer failed: %v %.200s", m.Header, m.Data)
		case kind == "end":
			check(json.Unmarshal(m.Data, &accepted))
			if accepted.Chunks != chunks || accepted.Bytes != written || written != accepted.End {
				log.Fatalf("the end counts %s, got %d chunks and %d bytes", m.Data, chunks, written)
			}
			return
		case m.Header.Get("Gantry-Seq") != fmt.Sprint(chunks) || m.Header.Get("Gantry-Offset") != fmt.Sprint(written):
			log.Fatalf("chunk %d was lost", chunks)
		case kind == "chunk":
			chunks, written, waits = chunks+1, written+int64(len(m.Data)), 0
			isAllowed := len(m.Data) > 0 && written <= reported+accepted.Credit && written <= accepted.End
			if !isAllowed || m.Header.Get("Gantry-Crc") != fmt.Sprintf("%016x", crc64.Checksum(m.Data, nvme)) {
				log.Fatalf("chunk %d is damaged, empty or too long", chunks-1)
			}
			must(file.Write(m.Data))
		case m.Header.Get("Gantry-Wait") == "credit":
			waits++
		}
		if waits > 1 || written > reported && (waits == 1 || written-reported >= accepted.Credit/2) {
			reported = written
			check(nc.PublishRequest(accepted.Control, inbox, fmt.Appendf(nil, `{"written": %d}`, written)))
		}
	}
}
func main() {
	nc, file := must(nats.Connect(os.Args[1], nats.NoReconnect())), must(os.Create(os.Args[4]))
	download(nc, os.Args[2], os.Args[3], file)
	check(file.Close())
}
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
func check(err error) { must(0, err) }
