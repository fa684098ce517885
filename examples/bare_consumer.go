// Downloads one object from a Gantry relay: bare_consumer NATS_URL STORE KEY FILE
// It checks the order, the CRC and the counts, gives credit for what it has written, and fails on anything else.
package main

import (
	"encoding/json"
	"fmt"
	"github.com/nats-io/nats.go"
	"hash/crc64"
	"log"
	"os"
	"time"
)

const window = 4 * 520_192 // four of the largest chunks
var nvme = crc64.MakeTable(0x9a6c9329ac4bc9b5)

func download(nc *nats.Conn, store, key string, file *os.File) {
	inbox := nc.NewInbox()
	messages, err := nc.SubscribeSync(inbox)
	check(err)
	var accepted struct {
		Transfer, Instance, Control, Key string
		Start, Size, Chunks, Bytes       int64 // the last two from the end
	}
	chunks, offset, credit := int64(0), int64(0), int64(window)
	request, _ := json.Marshal(map[string]any{"key": key, "credit": credit, "chunk_max": nc.MaxPayload() - 4096})
	check(nc.PublishRequest("gantry.v1.get."+store, inbox, request))
	for {
		m, err := messages.NextMsg(30 * time.Second) // fails on silence, and when there is no relay
		check(err)
		kind, transfer := m.Header.Get("Gantry-Type"), m.Header.Get("Gantry-Transfer")
		switch begun := accepted.Control != ""; {
		case kind == "beat" && !begun: // The relay is still opening the object.
		case kind == "accepted" && !begun:
			check(json.Unmarshal(m.Data, &accepted))
			if accepted.Control != "gantry.v1.ctl."+accepted.Instance+"."+transfer || accepted.Key != key || accepted.Start != 0 {
				log.Fatalf("not what was requested: %s", m.Data)
			}
		case kind != "chunk" && kind != "beat" && kind != "end" || !begun || transfer != accepted.Transfer:
			log.Fatalf("the transfer failed: %v %.200s", m.Header, m.Data)
		case kind == "end":
			check(json.Unmarshal(m.Data, &accepted))
			if accepted.Chunks != chunks || accepted.Bytes != offset || offset != accepted.Size {
				log.Fatalf("the end counts %s, got %d chunks and %d bytes", m.Data, chunks, offset)
			}
			return
		case m.Header.Get("Gantry-Seq") != fmt.Sprint(chunks) || m.Header.Get("Gantry-Offset") != fmt.Sprint(offset):
			log.Fatalf("chunk %d was lost", chunks)
		case kind == "chunk":
			sum := fmt.Sprintf("%016x", crc64.Checksum(m.Data, nvme))
			if sum != m.Header.Get("Gantry-Crc") || offset+int64(len(m.Data)) > credit {
				log.Fatalf("chunk %d is not what the relay sent", chunks)
			}
			_, err := file.Write(m.Data)
			check(err)
			chunks, offset = chunks+1, offset+int64(len(m.Data))
		}
		if m.Header.Get("Gantry-Wait") == "credit" {
			credit = offset + window
			check(nc.PublishRequest(accepted.Control, inbox, fmt.Appendf(nil, `{"credit": %d}`, credit)))
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
