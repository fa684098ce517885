//! All fuzz targets in one program for libFuzzer. `GANTRY_FUZZ_TARGET` names the target to run. A program per target
//! would have to be linked separately. Run it with `make fuzz`.

#![no_main]

use std::sync::LazyLock;

use gantry_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("GANTRY_FUZZ_TARGET").unwrap_or_default();
    gantry_fuzz::find(&name)
        .unwrap_or_else(|| panic!("GANTRY_FUZZ_TARGET={name:?} is not a target: see fuzz/src/lib.rs"))
});

fuzz_target!(|data: &[u8]| {
    (CHOSEN.run)(data);
});
