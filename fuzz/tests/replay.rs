//! Plays the committed inputs back without libFuzzer, and some random ones on top.

use std::fs;
use std::path::Path;

/// How many random inputs each target gets.
const RANDOM_INPUTS: u64 = 200;

#[test]
fn every_target_takes_its_corpus_and_random_bytes() {
    for target in gantry_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let inputs: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "{} has no inputs", folder.display());
        for input in &inputs {
            (target.run)(input);
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..RANDOM_INPUTS {
            let mut input = inputs[random.below(inputs.len())].clone();
            input.resize(random.below(400), 0);
            for _ in 0..random.below(20).min(input.len()) {
                let at = random.below(input.len());
                input[at] = random.next().to_le_bytes()[0];
            }
            (target.run)(&input);
        }
    }
}

/// A generator that gives the same numbers each time: xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).expect("it is below a usize")
    }
}
