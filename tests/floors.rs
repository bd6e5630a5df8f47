//! The floors of `ARCHITECTURE.md`: a file imports from its own floor's folder or from floors below it, never
//! upwards, and no two files import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path of Rust, as in `["tensor", "Device"]`; below the crate's root where it is absolute.
type Names = Vec<String>;

/// What a file says of others.
#[derive(Default)]
struct Module {
    /// The names that `use` brings in, for the file itself.
    imports: BTreeMap<String, Names>,
    /// Those among them that others may take from here.
    exports: BTreeMap<String, Names>,
    /// `mod name;`
    children: BTreeSet<String>,
    /// Every other path with two names or more, as it is written.
    paths: Vec<Names>,
}

/// What the files of `src` import from each other: (file, file) and the names that ride on it.
type Arrows = BTreeMap<(Names, Names), BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The floors of `ARCHITECTURE.md`, the top first: names of the folders and files of each.
fn floors(architecture: &str) -> Vec<Names> {
    let (_, section) = architecture.split_once("## Floors").expect("ARCHITECTURE.md has a section `Floors`");
    let list = section.split("```").nth(1).expect("the section has its list in a code block");
    let lines = list.lines().skip(1).filter(|line| !line.trim().is_empty());
    // a description stands two spaces or more behind the names
    let names = |line: &str| line.trim().split("  ").next().unwrap_or_default().to_string();
    let name = |word: &str| word.trim_end_matches('/').trim_end_matches(".rs").to_string();
    lines.map(|line| names(line).split(' ').map(name).collect()).collect()
}

fn modules() -> BTreeMap<Names, Module> {
    let src = root().join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                found.insert(module_name(&src, &path), parse(&text));
            }
        }
    }
    found
}

/// `src/tensor/device.rs` is `["tensor", "device"]`, `src/tensor/mod.rs` is `["tensor"]`, the crate's root is
/// empty.
fn module_name(src: &Path, path: &Path) -> Names {
    let inside: PathBuf = path.strip_prefix(src).expect("below src").with_extension("");
    let mut names: Names = inside.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|n| n == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

fn parse(text: &str) -> Module {
    let mut module = Module::default();
    walk(TokenStream::from_str(text).expect("sources are Rust"), &mut module);
    module
}

fn is_punct(token: Option<&TokenTree>, c: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == c)
}

fn walk(stream: TokenStream, module: &mut Module) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            TokenTree::Punct(p) if p.as_char() == '#' && is_test(tokens.get(i + 1)) => {
                // the item that is for tests alone: up to its braces or its semicolon
                while i < tokens.len() && !is_punct(tokens.get(i), ';') {
                    let braces =
                        matches!(&tokens[i], TokenTree::Group(g) if g.delimiter() == Delimiter::Brace);
                    if braces {
                        break;
                    }
                    i += 1;
                }
            }
            TokenTree::Group(group) => walk(group.stream(), module),
            TokenTree::Ident(word) if *word == "use" => {
                let end = (i..tokens.len()).find(|&j| is_punct(tokens.get(j), ';')).unwrap_or(tokens.len());
                let mut names = Vec::new();
                tree(&tokens[i + 1..end], &[], &mut names);
                for (name, path) in names {
                    if is_public(&tokens[..i]) {
                        module.exports.insert(name.clone(), path.clone());
                    }
                    module.imports.insert(name, path);
                }
                i = end;
            }
            TokenTree::Ident(word) if *word == "mod" && is_punct(tokens.get(i + 2), ';') => {
                module.children.insert(tokens[i + 1].to_string());
                i += 2;
            }
            TokenTree::Ident(word) => {
                let mut path = vec![word.to_string()];
                while is_punct(tokens.get(i + 1), ':') && is_punct(tokens.get(i + 2), ':') {
                    let Some(TokenTree::Ident(next)) = tokens.get(i + 3) else { break };
                    path.push(next.to_string());
                    i += 3;
                }
                if path.len() > 1 {
                    module.paths.push(path);
                }
            }
            _ => {}
        }
        i += 1;
    }
}

fn is_test(attribute: Option<&TokenTree>) -> bool {
    attribute.is_some_and(|a| a.to_string().replace(' ', "") == "[cfg(test)]")
}

/// Whether what stands before a `use` makes it public, to the crate at least.
fn is_public(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(word), TokenTree::Group(_)] | [.., TokenTree::Ident(word)] => *word == "pub",
        _ => false,
    }
}

/// The names of a use tree, with what they stand for.
fn tree(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<(String, Names)>) {
    for part in tokens.split(|t| is_punct(Some(t), ',')) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut rest = part;
        while let Some((token, tail)) = rest.split_first() {
            rest = tail;
            match token {
                TokenTree::Ident(word) if *word == "as" => {
                    name = rest.first().map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    tree(&inner, &path, found);
                    path.clear();
                }
                TokenTree::Punct(p) if p.as_char() == '*' => path.push("*".into()),
                _ => {}
            }
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        if let Some(last) = path.last() {
            found.push((name.unwrap_or_else(|| last.clone()), path.clone()));
        }
    }
}

/// A path as it is written in a file, from the crate's root; `None` where it leads out of the crate.
fn absolute(of: &Names, module: &Module, path: &[String]) -> Option<Names> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" | "poa_gpu" => Some(rest.to_vec()),
        "self" => Some([of, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|n| *n == "super").count();
            Some([&of[..of.len().checked_sub(ups)?], &path[ups..]].concat())
        }
        name if module.children.contains(name) => Some([of, path].concat()),
        name => {
            let imported = module.imports.get(name).filter(|target| target.first() != Some(first))?;
            Some([absolute(of, module, imported)?, rest.to_vec()].concat())
        }
    }
}

/// The file in which the thing at this path stands, however many files hand it on, and its name there.
fn defined_in(modules: &BTreeMap<Names, Module>, path: &[String], depth: usize) -> Option<(Names, Names)> {
    let known = (0..=path.len()).rev().find(|&n| modules.contains_key(&path[..n]))?;
    let (file, rest) = path.split_at(known);
    let module = &modules[file];
    if let Some(target) = rest.first().and_then(|name| module.exports.get(name)).filter(|_| depth < 9)
        && let Some(target) = absolute(&file.to_vec(), module, target)
        && let Some(found) = defined_in(modules, &[&target, &rest[1..]].concat(), depth + 1)
    {
        return Some(found);
    }
    Some((file.to_vec(), rest.to_vec()))
}

fn arrows(modules: &BTreeMap<Names, Module>) -> Arrows {
    let mut arrows = Arrows::new();
    for (of, module) in modules.iter().filter(|(of, _)| !of.is_empty()) {
        let handed_on = |name: &String| module.exports.contains_key(name);
        let imports = module.imports.iter().filter(|(name, _)| !handed_on(name)).map(|(_, path)| path);
        for path in imports.chain(&module.paths) {
            let Some(path) = absolute(of, module, path) else { continue };
            let Some((file, name)) = defined_in(modules, &path, 0) else { continue };
            // a module alone is a name to start paths with; those paths count
            if file != *of && !file.is_empty() && !name.is_empty() {
                arrows.entry((of.clone(), file)).or_default().insert(name.join("::"));
            }
        }
    }
    arrows
}

fn show(arrow: (&(Names, Names), &BTreeSet<String>)) -> String {
    let ((from, to), names) = arrow;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("{} -> {} ({})", from.join("::"), to.join("::"), names.join(", "))
}

/// The arrows that lead from a floor to one above it or beside it.
fn upward(arrows: &Arrows, floors: &[Names]) -> Vec<String> {
    let floor = |file: &Names| floors.iter().position(|names| names.contains(&file[0]));
    let base = floors.len() - 1;
    let allowed = |(from, to): &(Names, Names)| {
        let (Some(a), Some(b)) = (floor(from), floor(to)) else { return false };
        from[0] == to[0] || a < b || (a == base && b == base)
    };
    arrows.iter().filter(|(ends, _)| !allowed(ends)).map(show).collect()
}

/// The arrows that are part of a circle.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut next: BTreeMap<&Names, Vec<&Names>> = BTreeMap::new();
    for (from, to) in arrows.keys() {
        next.entry(from).or_default().push(to);
    }
    let reaches = |start: &Names, goal: &Names| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(at) = open.pop() {
            if at == goal {
                return true;
            }
            if seen.insert(at) {
                open.extend(next.get(at).into_iter().flatten());
            }
        }
        false
    };
    arrows.iter().filter(|((from, to), _)| reaches(to, from)).map(show).collect()
}

#[test]
fn files_import_from_their_own_floor_or_from_those_below() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (floors, modules) = (floors(&text), modules());
    let listed: BTreeSet<&String> = floors.iter().flatten().collect();
    let there: BTreeSet<&String> = modules.keys().filter_map(|names| names.first()).collect();
    assert_eq!(listed, there, "ARCHITECTURE.md lists each folder and file of src once");
    assert_eq!(listed.len(), floors.iter().flatten().count(), "no folder is on two floors");
    let arrows = arrows(&modules);
    assert!(arrows.len() > 400, "only {} imports found: the search is broken", arrows.len());
    let upward = upward(&arrows, &floors);
    assert!(upward.is_empty(), "{} imports lead upwards:\n{}", upward.len(), upward.join("\n"));
}

#[test]
fn files_import_each_other_in_no_circle() {
    let circles = circles(&arrows(&modules()));
    assert!(circles.is_empty(), "{} imports are part of a circle:\n{}", circles.len(), circles.join("\n"));
}

/// The search itself, on files made up for it.
#[test]
fn upward_imports_and_circles_are_found() {
    let file =
        |name: &str, text: &str| (name.split("::").map(str::to_string).collect::<Names>(), parse(text));
    let modules = BTreeMap::from([
        file("low", "mod part;\npub use part::Part;\npub fn f() {}"),
        file("low::part", "pub struct Part;\n#[cfg(test)]\nmod tests { use crate::high::Thing; }"),
        file("high", "use crate::low::{self, Part};\npub struct Thing;\nfn g() { vec![low::f()]; }"),
        file("wrong", "use crate::{high::Thing as Other, low};\nfn h() { low::f() }\nmod inner;"),
        file("wrong::inner", "fn i() { super::h() }"),
    ]);
    let arrows = arrows(&modules);
    let found: Vec<String> = arrows.iter().map(show).collect();
    let expected = [
        "high -> low (f)",
        "high -> low::part (Part)",
        "wrong -> high (Thing)",
        "wrong -> low (f)",
        "wrong::inner -> wrong (h)",
    ];
    assert_eq!(found, expected);
    let floors = floors("## Floors\n```text\nhigh/   two\nwrong/ other.rs   one\nlow/   zero\n```");
    assert_eq!(floors, [vec!["high"], vec!["wrong", "other"], vec!["low"]]);
    assert_eq!(upward(&arrows, &floors), ["wrong -> high (Thing)"]);
    assert_eq!(circles(&arrows), Vec::<String>::new());

    let back = file("low::part", "use crate::high::Thing; pub struct Part;");
    let arrows = self::arrows(&modules.into_iter().chain([back]).collect());
    assert_eq!(circles(&arrows), ["high -> low::part (Part)", "low::part -> high (Thing)"]);
}
