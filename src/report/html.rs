//! The page, with all that it needs in it.

use serde_json::Value;

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 4] = [
    include_str!("page/basics.js"),
    include_str!("page/chart.js"),
    include_str!("page/sections.js"),
    include_str!("page/page.js"),
];

/// The page that shows `data`. Where the data says so it asks for what is new.
pub fn page(title: &str, data: &Value) -> String {
    // the data last: what it holds is not looked at again
    let script = SCRIPTS.join("\n");
    let (before, after) = HTML.split_once("@DATA@").unwrap_or((HTML, ""));
    let before = before.replace("@STYLE@", CSS).replace("@TITLE@", &escaped(title));
    format!("{before}{}{}", embedded(data), after.replace("@SCRIPT@", &script))
}

/// JSON that may stand in a script element, whatever its texts are.
pub fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Text as it stands in HTML.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_of_others_end_no_element() {
        let evil = "</script><!--<script>alert(1)</script>&'\"@TITLE@@SCRIPT@";
        let page = page(evil, &json!({ "name": evil }));
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("alert(1)<") && !page.contains("<!--<"));
        let (_, data) = page.split_once(r#"type="application/json">"#).unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["name"], evil);
    }
}
