//! Random requests, replacements, losses and restarts, compared with a model.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// Reads a range, and leaves after this many pieces.
    Read {
        name: usize,
        start: u64,
        len: Option<u64>,
        leaves_after: Option<usize>,
    },
    Replace {
        name: usize,
        size: usize,
    },
    /// Removes or damages one of the files.
    Lose {
        file: usize,
        is_damaged: bool,
    },
    /// The next body of the store breaks after this many bytes.
    Break {
        after: usize,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = 0..4 * MIB as u64 + MIB as u64 / 2;
    let read = (0..NAMES.len(), size.clone(), prop::option::of(size), prop::option::weighted(0.2, 0..20_usize))
        .prop_map(|(name, start, len, leaves_after)| Step::Read {
            name,
            start: start.saturating_sub(MIB as u64),
            len,
            leaves_after,
        });
    let replace = (0..NAMES.len(), 0..4 * MIB).prop_map(|(name, size)| Step::Replace { name, size });
    let lose = (any::<usize>(), any::<bool>()).prop_map(|(file, is_damaged)| Step::Lose { file, is_damaged });
    let breaks = (0..3 * MIB).prop_map(|after| Step::Break { after });

    let step = prop_oneof![8 => read, 1 => replace, 1 => lose, 1 => breaks, 1 => Just(Step::Restart)];
    prop::collection::vec(step, 1..24)
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..8 * MIB as u64, 0..9_u64).prop_map(|(bytes_max, files_max)| Limits { bytes_max, files_max })
}

struct Run {
    world: World,
    objects: BTreeMap<&'static str, Bytes>,
    limits: Limits,
    puts: usize,
}

impl Run {
    fn put(&mut self, name: &'static str, size: usize) {
        self.puts += 1;
        let bytes = pattern(size, self.puts);
        self.world.double.put_object(checked(name, &format!("\"{}\"", self.puts), &bytes), &bytes);
        self.objects.insert(name, bytes);
    }

    async fn step(&mut self, step: Step, options: Options) {
        match step {
            Step::Read { name, start, len, leaves_after } => self.read(NAMES[name], start, len, leaves_after).await,
            Step::Replace { name, size } => self.put(NAMES[name], size),
            Step::Lose { file, is_damaged } => {
                let blocks = self.world.blocks();
                let Some(path) = blocks.get(file % blocks.len().max(1)) else { return };
                if is_damaged { fs::write(path, "damaged").unwrap() } else { fs::remove_file(path).unwrap() }
            }
            Step::Break { after } => self.world.double.break_after(after),
            Step::Restart => self.world.restart(self.limits, options).await,
        }
        self.assert_limits();
    }

    async fn read(&self, name: &str, start: u64, len: Option<u64>, leaves_after: Option<usize>) {
        let bytes = &self.objects[name];
        let size = bytes.len() as u64;
        let span = Span { start, end: len.map(|len| start + len) };
        let opened = self.world.store.open(&name.parse().unwrap(), &CURRENT, span).await;

        let Some(range) = span.resolve(size) else {
            assert!(matches!(opened, Err(Error::Range { .. })), "{opened:?}");
            return;
        };
        let Opened { object, mut body } = opened.unwrap();
        assert_eq!(object.size, size);

        let mut got = Vec::new();
        let mut pieces = 0;
        loop {
            if leaves_after.is_some_and(|most| pieces >= most) {
                break;
            }
            match body.next().await {
                None => {
                    assert_eq!(got.len() as u64, range.end - range.start);
                    break;
                }
                Some(Ok(piece)) => got.extend_from_slice(&piece),
                Some(Err(error)) => {
                    assert!(error.is_retryable(), "{error:?}");
                    break;
                }
            }
            pieces += 1;
            self.assert_limits();
        }
        let start = usize::try_from(range.start).unwrap();
        assert!(got == bytes[start..start + got.len()], "wrong bytes of {name}");
    }

    /// Compares the folder with the limits while files may come and go.
    fn assert_limits(&self) {
        let (mut bytes, mut files) = (0, 0);
        for entry in fs::read_dir(self.world.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "gantry-cache" {
                bytes += entry.metadata().map_or(0, |metadata| metadata.len());
                files += 1;
            }
        }
        // A listing is no snapshot: it may contain a file and the one that made room for it.
        assert!(bytes <= self.limits.bytes_max + 2 * MIB as u64 + 1000, "{bytes} bytes");
        assert!(files <= self.limits.files_max + 2, "{files} files");
    }
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_byte_is_right_and_the_limits_hold(steps in steps(), limits in limits(), serve_stale: bool) {
        let options = Options { serve_stale };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(limits, options).await;
            let mut run = Run { world, objects: BTreeMap::new(), limits, puts: 0 };
            for (name, size) in NAMES.into_iter().zip([2 * MIB + 5, MIB, 700]) {
                run.put(name, size);
            }
            for step in steps {
                run.step(step, options).await;
            }

            // Exactly, once nothing is being written.
            run.world.folder.settled().await;
            let (bytes, files) = run.world.folder.lock().table.kept();
            assert!(bytes <= limits.bytes_max && files <= limits.files_max);
            for name in NAMES {
                run.world.double.forget_breaks();
                run.read(name, 0, None, None).await;
            }
        });
    }
}
