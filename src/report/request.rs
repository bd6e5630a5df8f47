//! Requests of a browser, as far as the server of a run's page has something for them.

/// Headers of a request.
const HEADERS: usize = 100;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The page.
    Page,
    /// What is new since a place.
    News(usize, usize),
    /// Nothing: the status and why.
    Refused(u16, &'static str),
}

/// What the head of a request asks for; `None` where more of it is to come. `port` is where the server listens.
///
/// The header `Host` must name this machine: a page of another site, whose name was made to mean this address, gets
/// nothing.
pub fn asked(bytes: &[u8], port: u16) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(Asked::Refused(400, "Bad Request")),
    }
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|header| std::str::from_utf8(header.value).ok());
    if hosts.next().is_some() || !host.is_some_and(|host| is_own(host.trim(), port)) {
        return Some(Asked::Refused(403, "Forbidden"));
    }
    if request.method != Some("GET") {
        return Some(Asked::Refused(405, "Method Not Allowed"));
    }
    let path = request.path.unwrap_or_default();
    Some(match path.split_once('?').unwrap_or((path, "")) {
        ("/", _) => Asked::Page,
        ("/news", query) => match query.split_once('.').map(|(a, b)| (a.parse(), b.parse())) {
            Some((Ok(generation), Ok(points))) => Asked::News(generation, points),
            _ => Asked::Refused(400, "Bad Request"),
        },
        _ => Asked::Refused(404, "Not Found"),
    })
}

/// Whether a `Host` is this machine at this port.
fn is_own(host: &str, port: u16) -> bool {
    let (name, given) = host.rsplit_once(':').unwrap_or((host, "80"));
    (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost")) && given.parse() == Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_gets_the_page_and_its_news() {
        let ask = |method: &str, path: &str, host: &str| {
            asked(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), 8000)
        };
        assert_eq!(ask("GET", "/", "127.0.0.1:8000"), Some(Asked::Page));
        assert_eq!(ask("GET", "/news?3.17", "localhost:8000"), Some(Asked::News(3, 17)));
        let status = |found| match found {
            Some(Asked::Refused(status, _)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(ask("GET", "/", "evil.example:8000")), 403);
        assert_eq!(status(ask("GET", "/", "127.0.0.1.evil.example:8000")), 403);
        assert_eq!(status(ask("GET", "/", "localhost:8001")), 403);
        assert_eq!(status(ask("POST", "/", "localhost:8000")), 405);
        assert_eq!(status(ask("GET", "/../config.toml", "localhost:8000")), 404);
        assert_eq!(status(ask("GET", "/news?x", "localhost:8000")), 400);
        assert_eq!(status(asked(b"\0\r\n\r\n", 8000)), 400);
        assert_eq!(asked(b"GET / HTTP/1.1\r\nHo", 8000), None);
    }
}
