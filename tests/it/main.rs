//! Integration tests with the built binary and real servers (`make servers` downloads them).
//!
//! All tests are in one binary, so that the SDK is linked only once and all tests share an S3 server.

#[cfg(test)]
mod active;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bus;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod clouds;
#[cfg(test)]
mod clouds_bad_input;
#[cfg(test)]
mod clouds_check;
#[cfg(test)]
mod clouds_external;
#[cfg(test)]
mod clouds_habits;
#[cfg(test)]
mod consumer;
#[cfg(test)]
mod deploy_files;
#[cfg(test)]
mod download;
#[cfg(test)]
mod drivers;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod gossip;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod nats_deploy;
#[cfg(test)]
mod nats_field;
#[cfg(test)]
mod nats_jwt;
#[cfg(test)]
mod nats_links;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod options;
#[cfg(test)]
mod parallel;
#[cfg(test)]
mod places;
#[cfg(test)]
mod rate_limits;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod s3_check;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod shells;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod targets;
#[cfg(test)]
mod told;
#[cfg(test)]
mod transcript;
#[cfg(test)]
mod transcript_of_0_1;
#[cfg(test)]
mod tree_library;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod wire;
