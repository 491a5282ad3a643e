//! `/`: the status page, and the files it is made of.
//!
//! All of it is built into the program. The page asks this server and no other: its
//! policy lets a browser load, run and ask for nothing else, so that a name that came
//! from a database can do nothing but be shown.

use actix_web::http::header;
use actix_web::{HttpResponse, web};

/// What a browser may do with the page.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug)]
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! script {
    ($name:literal) => {
        File {
            path: concat!("/page/", $name),
            content_type: SCRIPT,
            text: include_str!(concat!("page/", $name)),
        }
    };
}

static FILES: [File; 14] = [
    File {
        path: "/",
        content_type: HTML,
        text: include_str!("page/index.html"),
    },
    File {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page/style.css"),
    },
    File {
        path: "/page/icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("page/icon.svg"),
    },
    script!("main.js"),
    script!("dom.js"),
    script!("events.js"),
    script!("filter.js"),
    script!("findings.js"),
    script!("format.js"),
    script!("nodes.js"),
    script!("pipelines.js"),
    script!("rates.js"),
    script!("streams.js"),
    script!("tenants.js"),
];

/// Answers for each file.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    for file in &FILES {
        let answer = move || async move { shown(file.content_type, file.text.to_owned()) };
        app.service(web::resource(file.path).get(answer));
    }
}

/// An answer that a browser shows under [`POLICY`].
pub(super) fn shown(content_type: &'static str, text: String) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .body(text)
}

/// A text as HTML shows it, in an attribute too.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/page");
        let names = fs::read_dir(folder).expect("a folder").map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("a name")
        });
        let there: BTreeSet<String> = names.collect();
        let served = FILES.iter().map(|file| match file.path {
            "/" => "index.html".to_owned(),
            path => path.trim_start_matches("/page/").to_owned(),
        });
        assert_eq!(served.collect::<BTreeSet<String>>(), there);
    }

    /// What the policy forbids would not work, and what it allows must not be needed:
    /// markup out of data, other servers, scripts and styles in the markup.
    #[test]
    fn no_file_makes_markup_of_data_or_asks_another_server() {
        let never = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "https://",
            " style=",
            " onclick=",
            "<script>",
            "<style>",
        ];
        for File { path, text, .. } in &FILES {
            for word in never {
                assert!(!text.contains(word), "{path} has {word}");
            }
            let namespace = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!namespace.contains("http://"), "{path} names a server");
        }
    }

    #[test]
    fn a_text_is_no_markup() {
        assert_eq!(
            escaped("<a href='x' & \"y\">"),
            "&lt;a href=&#39;x&#39; &amp; &quot;y&quot;&gt;"
        );
    }
}
