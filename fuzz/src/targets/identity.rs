//! Credentials and seed files: read, or rejected with a message that contains no part of the seed.

use crate::gantry::nats_files;

const SEED: &str = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let framed = format!(
        "-----BEGIN NATS USER JWT-----\nabc\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{text}\n"
    );
    // The seed with some of its characters replaced.
    let mut spoiled = SEED.to_owned().into_bytes();
    for pair in data.chunks_exact(2) {
        let at = usize::from(pair[0]) % spoiled.len();
        spoiled[at] = pair[1] & 0x7f;
    }
    let spoiled = String::from_utf8_lossy(&spoiled).into_owned();
    for text in [text.as_ref(), &framed, &spoiled] {
        for problem in nats_files::identity_problems(text).into_iter().flatten() {
            let is_quoted = spoiled.len() > 20 && problem.contains(&spoiled[spoiled.len() - 20..]);
            assert!(!is_quoted && problem.len() < 300, "the seed is shown: {problem}");
        }
    }
}
