//! Runs as pages: what they hold, of runs that are on, damaged, of an earlier version or none at all, and how they are
//! served.
//!
//! `kernels-tests/browser` opens them in Chromium.

#[path = "support/program.rs"]
mod support;

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Folder, SMALL, heeding, printed, refused};

/// The data in a page, after a look at whether the page needs anything else.
fn data(page: &str) -> Value {
    let (before, rest) = page.split_once(r#"type="application/json">"#).unwrap();
    let (data, after) = rest.split_once("</script>").unwrap();
    for part in [before, after] {
        for outside in ["src=\"", "href=\"http", "url(", "@import", "<iframe", "http://", "https://"] {
            assert!(!part.contains(outside), "the page asks for something else: {outside}");
        }
    }
    serde_json::from_str(data).unwrap()
}

fn report(run: &str, out: &str) -> Value {
    printed(&["report", run, "--no-images", "--out", out]);
    data(&fs::read_to_string(out).unwrap())
}

/// A run's folder as programs leave it, without one.
fn made(folder: &Folder, name: &str, metrics: &str, log: &str) -> String {
    let dir = folder.path(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(Path::new(&dir).join("metrics.jsonl"), metrics).unwrap();
    fs::write(Path::new(&dir).join("train.log"), log).unwrap();
    dir
}

#[test]
fn a_run_becomes_a_page_with_its_numbers_and_pictures() {
    let folder = Folder::new("report");
    let (run, out) = (folder.path("run"), folder.path("run.html"));
    let train = [
        "train",
        "--device=cpu",
        "--steps=3",
        "--data=shapes:200x32",
        "--out",
        &run,
        "train.log_every=1",
        "train.batch_size_per_gpu=4",
        "evaluation.train_images=20",
        "evaluation.val_images=10",
        "evaluation.k=[5]",
    ];
    printed(&[&train[..], &SMALL].concat());
    let before = listing(Path::new(&run));
    let sweep = folder.path("sweep");
    let eval = [
        "eval",
        "knn",
        "--checkpoint",
        &run,
        "--train=shapes:40x32",
        "--k=5",
        "--network=all",
        "--device=cpu",
        "--out",
        &sweep,
    ];
    printed(&eval);
    printed(&["report", &run, "--out", &out, "--sweep", &sweep, "--device=cpu"]);
    assert_eq!(listing(Path::new(&run)), before, "nothing of the run is changed");
    let data = data(&fs::read_to_string(&out).unwrap());
    let head = &data["head"];
    assert_eq!((&head["state"], &head["done"], &head["total"]), (&"finished".into(), &3.into(), &3.into()));
    assert_eq!(head["images"], 12.0);
    assert_eq!(
        head["checkpoints"].as_array().and_then(|all| all.last()).map(|last| &last["step"]),
        Some(&3.into())
    );
    assert_eq!(data["kind"], "pre-training");
    assert_eq!(data["curves"]["loss"][0], serde_json::json!([1, 2, 3]));
    assert_eq!(data["sweeps"][0]["rows"].as_array().map(Vec::len), Some(6));
    assert!(data["config"].as_str().is_some_and(|text| text.contains("[student]")));
    let about = data["about"].to_string();
    assert!(
        about.contains(&format!("poa-gpu {}", env!("CARGO_PKG_VERSION"))) && about.contains("cpu ("),
        "{about}"
    );
    let pictures = &data["pictures"];
    assert_eq!(pictures["why"], serde_json::json!([]));
    assert_eq!(pictures["crops"].as_array().map(Vec::len), Some(4));
    assert_eq!(pictures["crops"][0]["parts"].as_array().map(Vec::len), Some(4));
    assert_eq!(pictures["seen"].as_array().map(Vec::len), Some(4));
    assert!(
        pictures["seen"][0]["attention"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("data:image/png;base64,iVBOR"))
    );

    // its images are gone, its checkpoint too
    fs::remove_dir_all(Path::new(&run).join("checkpoints")).unwrap();
    let config = Path::new(&run).join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("shapes:200x32", "folder:/nowhere/at-all");
    fs::write(&config, text).unwrap();
    printed(&["report", &run, "--out", &out, "--device=cpu"]);
    let page = fs::read_to_string(&out).unwrap();
    let why = self::data(&page)["pictures"]["why"].to_string();
    assert!(
        why.contains("No example crops: /nowhere/at-all") && why.contains("what the network sees"),
        "{why}"
    );
}

/// Names and sizes of all that is in a folder.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let found = entry.metadata().unwrap();
        all.push((entry.path().display().to_string(), if found.is_dir() { 0 } else { found.len() }));
        if found.is_dir() {
            all.extend(listing(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn damaged_and_earlier_runs_are_shown_as_far_as_they_go() {
    let folder = Folder::new("report-damage");
    let out = folder.path("out.html");
    let metrics = "{\"loss\":2.0,\"lr\":0.1,\"step\":0}\n\u{0}\u{1}garbage\n{\"loss\":\"NaN\",\"step\":1}\n[1]\n{\"loss\":1.5,\"step\":2}\n{\"loss\":1.4,\"st";
    let run = made(&folder, "torn", metrics, "2026-01-01 00:00:00Z  step 3/9: loss 1.5, lr\n2026-01-01 00:0");
    let found = report(&run, &out);
    assert_eq!(found["curves"]["loss"], serde_json::json!([[1, 2, 3], [2.0, null, 1.5]]));
    assert_eq!((&found["head"]["damaged_lines"], &found["head"]["total"]), (&2.into(), &9.into()));
    assert_eq!(found["head"]["state"], "interrupted");
    assert!(
        found["config"].is_null()
            && found["config_problem"].as_str().is_some_and(|e| e.contains("config.toml"))
    );
    assert!(found["about"].to_string().contains("earlier version"));

    let failed = made(&folder, "failed", "", "2026-01-01 00:00:00Z  stopped: no space left\n");
    let found = report(&failed, &out);
    assert_eq!(
        (&found["head"]["state"], &found["head"]["reason"]),
        (&"failed".into(), &"no space left".into())
    );

    let empty = folder.path("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["report", &empty, "--out", &out], 1, &["empty", "holds no run"]);
    refused(&["report", &folder.path("nowhere"), "--out", &out], 1, &["nowhere", "no such folder"]);
    refused(&["report", &out, "--out", &out], 1, &["out.html", "is a file"]);
    refused(&["report", &failed, "--out", &empty], 1, &["empty", "is a folder"]);
    refused(
        &["report", &failed, "--sweep", &empty, "--out", &out],
        1,
        &["empty", "no table of sub-networks"],
    );
}

#[test]
fn texts_of_a_run_stay_texts() {
    let folder = Folder::new("report-texts");
    let evil = "</script><script>alert(1)</script><!--";
    let metrics = serde_json::json!({ "step": 0, "loss": 1.0, evil: 2.0 }).to_string() + "\n";
    let log = format!("2026-01-01 00:00:00Z  warning: {evil}\u{1b}[2J\n");
    let run = made(&folder, "<img src=x onerror=alert(1)>", &metrics, &log);
    fs::write(Path::new(&run).join("config.toml"), format!("# {evil}\n[student]\n")).unwrap();
    fs::write(Path::new(&run).join("bad_samples.txt"), format!("damaged\t{evil}.jpg\tbroken\n")).unwrap();
    let out = folder.path("out.html");
    let found = report(&run, &out);
    assert_eq!(found["curves"][evil], serde_json::json!([[1], [2.0]]));
    assert_eq!(found["head"]["warnings"][0]["text"], format!("{evil}\u{1b}[2J").replace('\u{1b}', "\\u001b"));
    assert_eq!(found["bad"]["first"][0][1], format!("{evil}.jpg"));
    let page = fs::read_to_string(&out).unwrap();
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("<img src=x") && !page.contains("<!--"));
}

#[test]
fn a_long_run_is_a_small_page() {
    let folder = Folder::new("report-long");
    let mut metrics = String::new();
    for step in 0..200_000 {
        let loss = if step == 77_777 { 99.0 } else { 5.0 + f64::from(step % 100) * 1e-3 };
        metrics.push_str(&format!("{{\"loss\":{loss},\"step\":{step}}}\n"));
    }
    let run = made(&folder, "long", &metrics, "");
    let found = report(&run, &folder.path("out.html"));
    let [steps, values] = [0, 1].map(|i| found["curves"]["loss"][i].as_array().unwrap().clone());
    assert!((1000..=2001).contains(&steps.len()), "{}", steps.len());
    let spike = values.iter().position(|value| *value == 99.0).expect("a spike stays");
    assert_eq!(steps[spike], 77_778);
    assert!(fs::metadata(folder.path("out.html")).unwrap().len() < 200_000);
}

/// The program while it serves a page.
struct Watched {
    child: Child,
    port: String,
}

impl Watched {
    fn new(run: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
        #[cfg(unix)]
        heeding(&mut command);
        let mut child = command.args(["watch", run, "--port=0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let port = line.strip_prefix("http://127.0.0.1:").unwrap().split('/').next().unwrap().to_string();
        Self { child, port }
    }

    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{}", self.port)).unwrap();
        stream.write_all(request.replace("PORT", &self.port).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.into(), body.into())
    }

    fn news(&self, place: &str) -> Value {
        let (head, body) = self.ask(&format!("GET /news?{place} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place(data: &Value) -> String {
    let place = &data["head"]["place"];
    format!("{}.{}", place[0], place[1])
}

#[test]
fn a_watched_run_tells_what_is_new_alone() {
    let folder = Folder::new("watch");
    let run = folder.path("later");
    let mut watched = Watched::new(&run);
    let (head, page) = watched.ask("GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n");
    assert!(head.contains("text/html") && head.contains("default-src 'none'"), "{head}");
    let found = data(&page);
    assert_eq!((&found["head"]["state"], &found["live"]), (&"waiting".into(), &true.into()));
    assert!(!Path::new(&run).exists(), "nothing is made");

    made(&folder, "later", "{\"loss\":2.0,\"step\":0}\n{\"loss\":1.", "");
    let news = watched.news(&place(&found));
    assert_eq!(news["points"], serde_json::json!([["loss", 1.0, 2.0]]));
    let metrics = Path::new(&run).join("metrics.jsonl");
    let mut file = OpenOptions::new().append(true).open(&metrics).unwrap();
    file.write_all(b"5,\"step\":1}\n").unwrap();
    let after = watched.news(&place(&news));
    assert_eq!(after["points"], serde_json::json!([["loss", 2.0, 1.5]]));
    assert_eq!(watched.news(&place(&after))["points"], serde_json::json!([]));

    // the run begins anew
    fs::remove_file(&metrics).unwrap();
    fs::write(&metrics, "{\"loss\":9.0,\"step\":0}\n").unwrap();
    let anew = watched.news(&place(&after));
    assert!(anew["points"].is_null());
    assert_eq!(anew["curves"]["loss"], serde_json::json!([[1], [9.0]]));

    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example:PORT\r\n\r\n", "403"),
        ("POST / HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "405"),
        ("GET /config.toml HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "404"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "404"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (head, body) = watched.ask(request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.len() < 100, "{request}: {head}");
    }
    refused(&["watch", &run, "--port", &watched.port], 2, &["--port", "is taken"]);
    let names: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");

    #[cfg(unix)]
    {
        // SAFETY: the process is this test's own child, which was not waited for yet
        unsafe { libc::kill(watched.child.id() as i32, libc::SIGINT) };
        assert!(watched.child.wait().unwrap().success());
    }
}

/// What is looked at in the page itself, told in an element of its own.
const CHECK: &str = r"<script>
const wrong = [];
addEventListener('error', (event) => wrong.push(event.message));
setTimeout(() => {
  const texts = [...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const small = texts.filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11);
  const light = (colour) => { const [r, g, b] = colour.match(/[\d.]+/g).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  const faint = texts.filter((e) => !e.closest('svg')).filter((e) => { const [a, b] = [getComputedStyle(e).color, behind(e)].map(light).sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) < 4.5; });
  const curves = [...document.querySelectorAll('path.curve')].filter((e) => /^M[MLh\d. -]+$/.test(e.getAttribute('d')));
  parent.postMessage(JSON.stringify({ width: innerWidth, page: document.documentElement.scrollWidth, wrong, texts: texts.length,
    dark: matchMedia('(prefers-color-scheme: dark)').matches, curves: curves.length,
    small: small.map((e) => e.textContent.slice(0, 20)), faint: faint.map((e) => e.textContent.slice(0, 20)),
    asked: performance.getEntriesByType('resource').map((r) => r.name.slice(0, 40)).filter((n) => !n.startsWith('data:')) }), '*');
}, 500);
</script>";

/// A page with another in it, as wide as it is wanted (a window has at least 500 pixels), that keeps what that one says.
const AROUND: &str = r#"<!doctype html><style>body { margin: 0 }</style><iframe src="page.html" width="WIDTH" height="900" style="border: 0"></iframe>
<pre id="check"></pre><script>onmessage = (event) => { document.getElementById('check').textContent = event.data; };</script>"#;

/// The document that Chromium has made of an address, and what it complained of.
fn browsed(folder: &Folder, address: &str, dark: bool) -> (String, String) {
    let chromium = std::env::var("POA_CHROMIUM").unwrap_or_else(|_| "chromium".into());
    let profile = folder.path(&format!("profile-{dark}"));
    let out = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
        ])
        .args([format!("--user-data-dir={profile}").as_str(), "--window-size=1280,900"])
        .args(dark.then_some("--blink-settings=preferredColorScheme=0"))
        .args(["--virtual-time-budget=5000", "--dump-dom", address])
        .output()
        .expect("Chromium starts");
    let complaints = String::from_utf8_lossy(&out.stderr).into_owned();
    let complaints =
        complaints.lines().filter(|line| line.contains(":CONSOLE")).collect::<Vec<_>>().join("\n");
    (String::from_utf8_lossy(&out.stdout).into_owned(), complaints)
}

/// Curves of a document whose coordinates are all numbers.
fn curves(document: &str) -> usize {
    let paths = document
        .split("<path class=\"curve")
        .skip(1)
        .filter_map(|rest| rest.split_once(" d=\"")?.1.split('"').next());
    let sound = |path: &&str| {
        path.split(['M', 'L', 'h', ' '])
            .filter(|n| !n.is_empty())
            .all(|n| n.parse::<f64>().is_ok_and(f64::is_finite))
    };
    paths.filter(|path| path.starts_with('M')).filter(sound).count()
}

#[test]
#[ignore = "needs Chromium: kernels-tests/browser"]
fn a_browser_draws_the_page() {
    let folder = Folder::new("report-browser");
    let mut metrics = String::new();
    for step in 0..300 {
        let (a, b) = (5.0 - f64::from(step) * 0.01, 0.1 + f64::from(step % 7));
        metrics.push_str(&format!(
            "{{\"loss\":{a},\"koleo_loss\":{b},\"lr\":{a},\"grad_norm.backbone\":{b},\"step\":{step}}}\n"
        ));
    }
    metrics.push_str("{\"knn.48x2.10\":0.5,\"knn.96x3.10\":0.75,\"step\":300}\n");
    let log = "2026-01-01 00:00:00Z  warning: step 5: the loss moved by only 0.05%\n";
    let run = made(&folder, "run-with-a-long-name-that-could-be-wider-than-a-telephone", &metrics, log);
    let table = "network,width,depth,parameters,flops,k=10\n48x2,48,2,100,200,0.5\n96x3,96,3,300,900,0.75\n";
    fs::write(Path::new(&run).join("knn.csv"), table).unwrap();
    let out = folder.path("page.html");
    report(&run, &out);
    let page = fs::read_to_string(&out).unwrap().replace("</body>", &format!("{CHECK}</body>"));
    fs::write(&out, page).unwrap();
    for (width, dark) in [(1280, false), (1280, true), (400, false), (400, true)] {
        let around = folder.path("around.html");
        fs::write(&around, AROUND.replace("WIDTH", &width.to_string())).unwrap();
        let (document, complaints) = browsed(&folder, &format!("file://{around}"), dark);
        assert_eq!(complaints, "", "{width}");
        let (_, said) = document.split_once(r#"<pre id="check">"#).expect("the check has run");
        let said: Value = serde_json::from_str(said.split_once("</pre>").unwrap().0).unwrap();
        assert_eq!((&said["width"], &said["dark"]), (&width.into(), &dark.into()), "{said}");
        // loss, part, rate, norm, two of k-NN, two fronts
        assert_eq!(said["curves"], 8, "{said}");
        assert!(said["page"].as_u64().unwrap() <= width && said["texts"].as_u64().unwrap() > 50, "{said}");
        for list in ["wrong", "small", "faint", "asked"] {
            assert_eq!(said[list], serde_json::json!([]), "{list} at {width}, dark {dark}: {said}");
        }
    }
    let watched = Watched::new(&run);
    let (document, complaints) = browsed(&folder, &format!("http://127.0.0.1:{}/", watched.port), false);
    assert_eq!(complaints, "");
    assert_eq!(curves(&document), 8);
    assert!(document.contains("Up to date at"), "its news came");
}
