//! What naga writes for DX12, for Slang's front end, which knows HLSL: there is no dxc where these tests run.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::paths::{Path, Translated};
use super::structure::Validated;
use super::variants;

/// Writes every text once, with the name of its variant, into the folder POA_TEST_HLSL; `kernels-tests/hlsl`
/// runs this and reads them.
#[test]
#[ignore = "writes files for kernels-tests/hlsl"]
fn hlsl_of_every_variant_is_written_out() {
    let folder = std::env::var("POA_TEST_HLSL").expect("POA_TEST_HLSL names a folder");
    let texts = variants().par_iter().flat_map_iter(|variant| {
        let validated = Validated::new(&variant.source);
        let paths = [Path::Hlsl60, Path::Hlsl62, Path::Hlsl66].into_iter();
        let paths = paths.filter(|path| path.lacks(&variant.source).is_none());
        paths.map(move |path| {
            match path.translate(&validated.module, &validated.info, variant.kernel.entry) {
                Ok(Translated::Text(text)) => (text, variant.name()),
                Ok(Translated::Words(_)) => unreachable!("HLSL is text"),
                Err(why) => panic!("{}: {why}", variant.name()),
            }
        })
    });
    // most are the same in all versions
    let texts: BTreeMap<String, String> = texts.collect();
    for (i, (text, name)) in texts.iter().enumerate() {
        let file = std::path::Path::new(&folder).join(format!("{i}.hlsl"));
        std::fs::write(file, format!("// {name}\n{text}")).expect("the folder can be written to");
    }
    println!("{} texts of {} variants", texts.len(), variants().len());
}
