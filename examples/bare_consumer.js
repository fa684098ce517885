// Downloads one object: node bare_consumer.js NATS_URL STORE KEY FILE. The bare level of docs/PROTOCOL.md.
// Needs `npm install @nats-io/transport-node`.
const { closeSync, openSync, writeSync } = require("node:fs");
const { connect, createInbox } = require("@nats-io/transport-node");
const WINDOW = 4 * 520_192; // how many bytes may arrive before they are reported as written: four of the largest chunks

// CRC-64/NVME, reflected, as two halves of 32 bits.
const HIGH = new Uint32Array(256), LOW = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
  let crc = BigInt(byte);
  for (let bit = 0; bit < 8; bit++) crc = (crc >> 1n) ^ (crc & 1n ? 0x9a6c9329ac4bc9b5n : 0n);
  [HIGH[byte], LOW[byte]] = [Number(crc >> 32n), Number(crc & 0xffffffffn)];
}
function crc64nvme(bytes) {
  let high = ~0, low = ~0;
  for (const byte of bytes) {
    const index = (low ^ byte) & 0xff;
    low = ((low >>> 8) | (high << 24)) ^ LOW[index];
    high = (high >>> 8) ^ HIGH[index];
  }
  const hex = (half) => (~half >>> 0).toString(16).padStart(8, "0");
  return hex(high) + hex(low);
}

async function download(nc, store, key, file) {
  const inbox = createInbox();
  const messages = nc.subscribe(inbox);
  let accepted, chunks = 0, written = 0, reported = 0, waits = 0;
  const timer = setTimeout(() => messages.unsubscribe(), 10_000);
  const request = { key, window: WINDOW, chunk_max: nc.info.max_payload - 4096 };
  nc.publish(`gantry.v1.get.${store}`, JSON.stringify(request), { reply: inbox });
  try {
    for await (const message of messages) {
      const header = (name) => message.headers?.get(`Gantry-${name}`);
      const kind = header("Type"), transfer = header("Transfer");
      timer.refresh();
      if (kind === "beat" && !accepted) continue;
      if (kind === "accepted" && !accepted) {
        accepted = message.json();
        const { instance, start, end, size, credit } = accepted;
        const isOwn = accepted.control === `gantry.v1.ctl.${instance}.${transfer}` && accepted.transfer === transfer;
        const hasForms = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(transfer) && /^[\w-]{1,64}$/.test(instance);
        const isWhole = [end, credit].every(Number.isSafeInteger) && start === 0 && end === size && credit <= WINDOW;
        const isRequested = isOwn && hasForms && isWhole && accepted.key === key;
        if (!isRequested) throw new Error(`not what was requested: ${message.string()}`);
      } else if (!["chunk", "beat", "end"].includes(kind) || !accepted || transfer !== accepted.transfer) {
        throw new Error(`the transfer failed: ${message.headers} ${message.string().slice(0, 200)}`);
      } else if (kind === "end") {
        const end = message.json();
        if (end.chunks === chunks && end.bytes === written && written === accepted.end) return;
        throw new Error(`the end counts ${message.string()}, got ${chunks} chunks and ${written} bytes`);
      } else if (header("Seq") !== String(chunks) || header("Offset") !== String(written)) {
        throw new Error(`chunk ${chunks} was lost`);
      } else if (kind === "chunk") {
        [chunks, written] = [chunks + 1, written + message.data.length];
        const isAllowed = message.data.length > 0 && written <= Math.min(reported + accepted.credit, accepted.end);
        const isIntact = crc64nvme(message.data) === header("Crc");
        if (!isAllowed || !isIntact) throw new Error(`chunk ${chunks - 1} is damaged, empty or too long`);
        for (let done = 0; done < message.data.length;) done += writeSync(file, message.data, done);
      }
      waits = header("Wait") === "credit" ? waits + 1 : 0;
      if (waits > 1 || written - reported >= (waits ? 1 : Math.max(1, accepted.credit / 2))) {
        reported = written;
        nc.publish(accepted.control, JSON.stringify({ written }), { reply: inbox });
      }
    }
    throw new Error("the relay is silent");
  } finally {
    clearTimeout(timer);
  }
}
async function main(servers, store, key, path) {
  const nc = await connect({ servers, reconnect: false });
  const file = openSync(path, "w");
  await download(nc, store, key, file).finally(() => nc.close());
  closeSync(file);
}

main(...process.argv.slice(2));
