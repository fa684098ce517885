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
	"strings"
	"time"
)

const window = 4 * 520_192 // how many bytes may arrive before they are reported as written: four of the largest chunks
var nvme = crc64.MakeTable(0x9a6c9329ac4bc9b5)
var forms = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}\.[0-9a-f-]{36}$`) // an instance and a transfer

func download(nc *nats.Conn, store, key string, file *os.File) {
	inbox := nc.NewInbox()
	messages, err := nc.SubscribeSync(inbox)
	check(err)
	var accepted struct {
		Transfer, Instance, Control, Key        string
		Start, End, Size, Credit, Chunks, Bytes int64 // chunks and bytes are those of the end
	}
	chunks, written, reported, waits := int64(0), int64(0), int64(0), 0
	request, _ := json.Marshal(map[string]any{"key": key, "window": window, "chunk_max": nc.MaxPayload() - 4096})
	check(nc.PublishRequest("gantry.v1.get."+store, inbox, request))
	for {
		m, err := messages.NextMsg(10 * time.Second) // fails on silence, and when there is no relay
		check(err)
		kind, transfer := m.Header.Get("Gantry-Type"), m.Header.Get("Gantry-Transfer")
		switch begun := accepted.Control != ""; {
		case kind == "beat" && !begun: // The relay is still opening the object.
		case kind == "accepted" && !begun:
			check(json.Unmarshal(m.Data, &accepted))
			if accepted.Control != "gantry.v1.ctl."+accepted.Instance+"."+transfer || accepted.Transfer != transfer ||
				!forms.MatchString(accepted.Instance+"."+transfer) || accepted.Key != key || accepted.Start != 0 ||
				accepted.End != accepted.Size || accepted.Credit > window {
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
			chunks, written = chunks+1, written+int64(len(m.Data))
			if m.Header.Get("Gantry-Crc") != fmt.Sprintf("%016x", crc64.Checksum(m.Data, nvme)) || written > reported+accepted.Credit || written > accepted.End {
				log.Fatalf("chunk %d is not what the relay sent", chunks-1)
			}
			_, err = file.Write(m.Data)
			check(err)
		}
		waits = (waits + 1) * strings.Count(m.Header.Get("Gantry-Wait"), "credit")
		if waits > 1 || written > reported && (waits == 1 || written-reported >= accepted.Credit/2) {
			reported = written
			check(nc.PublishRequest(accepted.Control, inbox, fmt.Appendf(nil, `{"written": %d}`, written)))
		}
	}
}
func main() {
	nc, err := nats.Connect(os.Args[1], nats.NoReconnect())
	check(err)
	file, err := os.Create(os.Args[4])
	check(err)
	download(nc, os.Args[2], os.Args[3], file)
	check(file.Close())
}
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
