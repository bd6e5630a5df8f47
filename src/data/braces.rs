//! Names with braces, as in a shell: `{000..146}` is every number of a range, `{a,b}` each of a list.

/// The most names that one pattern may stand for, and the most bytes of all of them together.
const MOST: usize = 1_000_000;
const MOST_BYTES: usize = 64 << 20;
/// The most braces of a pattern, which nest or follow each other by recursion.
const MOST_BRACES: usize = 200;

/// The names that `pattern` stands for, in order; an error says what is wrong with it. A range whose first or
/// last number starts with a zero is padded with zeros to one width.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    if pattern.matches('{').count() > MOST_BRACES {
        return Err(format!("has more than {MOST_BRACES} pairs of braces; write fewer, or a list of shards"));
    }
    names(pattern)
}

fn names(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return match pattern.contains('}') {
            true => Err("has a `}` without a `{`".into()),
            false => Ok(vec![pattern.into()]),
        };
    };
    let (head, body) = (&pattern[..open], &pattern[open + 1..]);
    let close = closing(body).ok_or("has a `{` without a `}`")?;
    let choices = choices(&body[..close])?;
    let tails = names(&body[close + 1..])?;
    if head.contains('}') {
        return Err("has a `}` without a `{`".into());
    }
    let (chosen, rest) = (choices.len(), tails.len());
    let all = chosen.saturating_mul(rest);
    let long = [(all, head.len()), (rest, bytes(&choices)), (chosen, bytes(&tails))];
    let long =
        long.iter().fold(0usize, |sum, (times, bytes)| sum.saturating_add(times.saturating_mul(*bytes)));
    if all > MOST || long > MOST_BYTES {
        return Err(too_many());
    }
    let name = |choice: &String, tail: &String| [head, choice, tail].concat();
    Ok(choices.iter().flat_map(|choice| tails.iter().map(move |tail| name(choice, tail))).collect())
}

fn bytes(names: &[String]) -> usize {
    names.iter().map(String::len).sum()
}

fn too_many() -> String {
    format!("stands for more than {MOST} names, or for {} MiB of them", MOST_BYTES >> 20)
}

/// Where the brace that was opened just before `body` is closed.
fn closing(body: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in body.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// What stands between two braces: a list, whose items may have braces themselves, or a range.
fn choices(body: &str) -> Result<Vec<String>, String> {
    let mut depth = 0;
    let items: Vec<&str> = body
        .split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        })
        .collect();
    if items.len() == 1 {
        return range(body);
    }
    let (mut all, mut long) = (Vec::new(), 0);
    for item in items {
        let more = names(item)?;
        long += bytes(&more);
        all.extend(more);
        if all.len() > MOST || long > MOST_BYTES {
            return Err(too_many());
        }
    }
    Ok(all)
}

/// The numbers of `first..last`.
fn range(body: &str) -> Result<Vec<String>, String> {
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let ends =
        body.split_once("..").and_then(|(first, last)| Some((first, last, number(first)?, number(last)?)));
    let Some((first_text, last_text, first, last)) = ends else {
        return Err(format!(
            "has `{{{body}}}`, which is neither a range as {{000..146}} nor a list as {{a,b}}"
        ));
    };
    if first.abs_diff(last) >= MOST as u64 {
        return Err(too_many());
    }
    let padded = [first_text, last_text].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first_text.len().max(last_text.len()) } else { 0 };
    let name = |n: u64| format!("{n:0width$}");
    Ok(if first <= last {
        (first..=last).map(name).collect()
    } else {
        (last..=first).rev().map(name).collect()
    })
}
