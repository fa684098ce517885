//! Gantry relays S3 objects and local files over NATS in verified, flow-controlled chunks.
