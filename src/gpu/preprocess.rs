//! Composition of WGSL: `#include "file"`, `#ifdef NAME` / `#ifndef NAME` / `#else` / `#endif`, constants,
//! and `#repeat I COUNT` / `#end` for what WGSL has no arrays of: the lines between, with `$I` 0, 1, .. up to
//! a constant or number. Nothing else; shaders stay readable as they stand.

use crate::error::{Error, Result};

/// Small pieces that shaders share.
pub(super) const INCLUDES: &[(&str, &str)] = &[
    ("act.wgsl", include_str!("../../shaders/include/act.wgsl")),
    ("cooperative.wgsl", include_str!("../../shaders/include/cooperative.wgsl")),
    ("params.wgsl", include_str!("../../shaders/include/params.wgsl")),
    ("grid.wgsl", include_str!("../../shaders/include/grid.wgsl")),
    ("math.wgsl", include_str!("../../shaders/include/math.wgsl")),
    ("units.wgsl", include_str!("../../shaders/include/units.wgsl")),
    ("unit_math.wgsl", include_str!("../../shaders/include/unit_math.wgsl")),
    ("rows.wgsl", include_str!("../../shaders/include/rows.wgsl")),
    ("reduce.wgsl", include_str!("../../shaders/include/reduce.wgsl")),
    ("matmul.wgsl", include_str!("../../shaders/include/matmul.wgsl")),
    ("window.wgsl", include_str!("../../shaders/include/window.wgsl")),
    ("left.wgsl", include_str!("../../shaders/include/left.wgsl")),
    ("left_window.wgsl", include_str!("../../shaders/include/left_window.wgsl")),
    ("eights.wgsl", include_str!("../../shaders/include/eights.wgsl")),
    ("eights_window.wgsl", include_str!("../../shaders/include/eights_window.wgsl")),
    ("targets.wgsl", include_str!("../../shaders/include/targets.wgsl")),
    ("sequences.wgsl", include_str!("../../shaders/include/sequences.wgsl")),
    ("attention_rows.wgsl", include_str!("../../shaders/include/attention_rows.wgsl")),
    ("over_lanes.wgsl", include_str!("../../shaders/include/over_lanes.wgsl")),
];

fn broken(name: &str, what: impl std::fmt::Display) -> Error {
    Error::Device(format!("shader {name}: {what}"))
}

/// Expands `source`. Constants become `const NAME = value;` lines in front, and are what `#ifdef` asks for.
pub(super) fn expand(name: &str, source: &str, constants: &[(&str, u32)], flags: &[&str]) -> Result<String> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut body = String::new();
    expand_into(&mut body, name, source, &Names { constants, flags }, &mut Vec::new())?;
    // directives must come first in WGSL
    for line in body.lines().filter(|l| l.starts_with("enable ")) {
        out.push_str(line);
        out.push('\n');
    }
    for (constant, value) in constants {
        out.push_str(&format!("const {constant}: u32 = {value}u;\n"));
    }
    for line in body.lines().filter(|l| !l.starts_with("enable ")) {
        out.push_str(line);
        out.push('\n');
    }
    Ok(out)
}

/// What directives may ask for.
struct Names<'a> {
    constants: &'a [(&'a str, u32)],
    flags: &'a [&'a str],
}

impl Names<'_> {
    fn value(&self, name: &str) -> Option<u32> {
        self.constants.iter().find(|(constant, _)| *constant == name).map(|(_, value)| *value)
    }

    fn has(&self, name: &str) -> bool {
        self.flags.contains(&name) || self.value(name).is_some()
    }
}

/// The lines up to the `#end` of a `#repeat` that has just been read.
fn repeated<'a>(name: &str, lines: &mut std::str::Lines<'a>) -> Result<Vec<&'a str>> {
    let mut body = Vec::new();
    let mut depth = 0;
    for line in lines {
        match line.split_whitespace().next() {
            Some("#repeat") => depth += 1,
            Some("#end") if depth == 0 => return Ok(body),
            Some("#end") => depth -= 1,
            _ => {}
        }
        body.push(line);
    }
    Err(broken(name, "#repeat without #end"))
}

fn expand_into(
    out: &mut String,
    name: &str,
    source: &str,
    names: &Names,
    included: &mut Vec<String>,
) -> Result<()> {
    let mut active: Vec<bool> = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some(directive @ ("#ifdef" | "#ifndef")) => {
                let flag = words.next().ok_or_else(|| broken(name, "a condition without a name"))?;
                active.push(names.has(flag) == (directive == "#ifdef"));
            }
            Some("#else") => {
                let last = active.last_mut().ok_or_else(|| broken(name, "#else without #ifdef"))?;
                *last = !*last;
            }
            Some("#endif") => {
                active.pop().ok_or_else(|| broken(name, "#endif without #ifdef"))?;
            }
            Some("#include") if active.iter().all(|a| *a) => {
                let file = words.next().unwrap_or_default().trim_matches('"');
                if included.iter().any(|f| f == file) {
                    continue;
                }
                included.push(file.to_string());
                let (_, text) = INCLUDES
                    .iter()
                    .find(|(n, _)| *n == file)
                    .ok_or_else(|| broken(name, format!("unknown include `{file}`")))?;
                expand_into(out, file, text, names, included)?;
            }
            Some("#repeat") if active.iter().all(|a| *a) => {
                let (index, count) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let times = names.value(count).or_else(|| count.parse().ok());
                let times = times.ok_or_else(|| broken(name, format!("`{line}` names no constant")))?;
                let body = repeated(name, &mut lines)?.join("\n");
                for i in 0..times {
                    let text = body.replace(&format!("${index}"), &i.to_string());
                    expand_into(out, name, &text, names, included)?;
                }
            }
            Some("#repeat") => {
                repeated(name, &mut lines)?;
            }
            Some("#include") => {}
            Some(word) if word.starts_with('#') => {
                return Err(broken(name, format!("unknown directive `{word}`")));
            }
            _ if active.iter().all(|a| *a) => {
                out.push_str(line);
                out.push('\n');
            }
            _ => {}
        }
    }
    if active.is_empty() { Ok(()) } else { Err(broken(name, "#ifdef without #endif")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_constants() {
        let source = "#ifdef A\nx\n#else\ny\n#endif\n#ifndef A\nz\n#endif";
        assert_eq!(expand("t", source, &[("A", 3)], &[]).unwrap(), "const A: u32 = 3u;\nx\n");
        assert_eq!(expand("t", source, &[], &[]).unwrap(), "y\nz\n");
        assert_eq!(expand("t", source, &[], &["A"]).unwrap(), "x\n");
        assert!(expand("t", "#ifdef A", &[], &[]).is_err());
        assert!(expand("t", "#include \"none.wgsl\"", &[], &[]).is_err());
    }

    #[test]
    fn repetitions() {
        let source = "#repeat Y N\n#repeat X 2\ns$Y$X\n#end\n#ifdef A\na$Y\n#endif\n#end\nz";
        let wanted = "const N: u32 = 2u;\ns00\ns01\ns10\ns11\nz\n";
        assert_eq!(expand("t", source, &[("N", 2)], &[]).unwrap(), wanted);
        let hidden = format!("#ifdef B\n{source}\n#endif");
        assert_eq!(expand("t", &hidden, &[], &[]).unwrap(), "");
        assert!(expand("t", source, &[], &[]).is_err());
        assert!(expand("t", "#repeat I 2", &[], &[]).is_err());
        assert!(expand("t", "#end", &[], &[]).is_err());
    }
}
