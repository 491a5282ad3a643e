//! The Markdown of the runbooks as HTML: headings, paragraphs, lists, fenced code, and in
//! a line code, links and bold text. Everything is escaped.

use super::page::escaped;

/// What a line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Nothing,
    Paragraph,
    Item,
    Code,
}

/// A text of the documentation, which lies in `folder` of the repository. Links within
/// the folder stay links; others are named, because what they lead to is not at hand.
pub(super) fn html(text: &str, folder: &str) -> String {
    let mut writer = Writer {
        html: String::with_capacity(text.len() * 2),
        block: Block::Nothing,
        // Lines of a paragraph belong together: a link may be broken across two.
        pending: String::new(),
        folder,
    };
    for line in text.lines() {
        writer.line(line);
    }
    writer.end_block();
    writer.html
}

struct Writer<'a> {
    html: String,
    block: Block,
    pending: String,
    folder: &'a str,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        if self.block == Block::Code {
            if line.starts_with("```") {
                self.html.push_str("</code></pre>\n");
                self.block = Block::Nothing;
            } else {
                self.html.push_str(&escaped(line));
                self.html.push('\n');
            }
            return;
        }
        if line.starts_with("```") {
            self.end_block();
            self.html.push_str("<pre><code>");
            self.block = Block::Code;
            return;
        }
        let heading = line.len() - line.trim_start_matches('#').len();
        if (1..=6).contains(&heading) && line[heading..].starts_with(' ') {
            self.end_block();
            let text = self.inline(line[heading..].trim());
            self.html
                .push_str(&format!("<h{heading}>{text}</h{heading}>\n"));
            return;
        }
        if let Some(item) = line.strip_prefix("- ") {
            if self.block == Block::Item {
                self.end_line();
            } else {
                self.end_block();
                self.html.push_str("<ul>\n");
                self.block = Block::Item;
            }
            self.pending.push_str(item);
            return;
        }
        if line.trim().is_empty() {
            self.end_block();
            return;
        }
        if self.block == Block::Nothing {
            self.block = Block::Paragraph;
        }
        if !self.pending.is_empty() {
            self.pending.push(' ');
        }
        self.pending.push_str(line.trim());
    }

    /// Writes the item or paragraph that was collected.
    fn end_line(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let text = self.inline(&pending);
        match self.block {
            Block::Item => self.html.push_str(&format!("<li>{text}</li>\n")),
            Block::Paragraph => self.html.push_str(&format!("<p>{text}</p>\n")),
            Block::Nothing | Block::Code => {}
        }
    }

    fn end_block(&mut self) {
        self.end_line();
        match self.block {
            Block::Item => self.html.push_str("</ul>\n"),
            Block::Code => self.html.push_str("</code></pre>\n"),
            Block::Nothing | Block::Paragraph => {}
        }
        self.block = Block::Nothing;
    }

    /// Code, links and bold text of a line.
    fn inline(&self, text: &str) -> String {
        let mut html = String::new();
        let mut rest = text;
        while let Some(place) = rest.find(['`', '[', '*']) {
            html.push_str(&escaped(&rest[..place]));
            rest = &rest[place..];
            let known = self
                .code(rest)
                .or_else(|| self.link(rest))
                .or_else(|| self.bold(rest));
            if let Some((part, after)) = known {
                html.push_str(&part);
                rest = after;
            } else {
                let end = rest.chars().next().map_or(0, char::len_utf8);
                html.push_str(&escaped(&rest[..end]));
                rest = &rest[end..];
            }
        }
        html.push_str(&escaped(rest));
        html
    }

    fn code<'t>(&self, text: &'t str) -> Option<(String, &'t str)> {
        let (code, after) = text.strip_prefix('`')?.split_once('`')?;
        Some((format!("<code>{}</code>", escaped(code)), after))
    }

    fn bold<'t>(&self, text: &'t str) -> Option<(String, &'t str)> {
        let (bold, after) = text.strip_prefix("**")?.split_once("**")?;
        Some((format!("<strong>{}</strong>", self.inline(bold)), after))
    }

    fn link<'t>(&self, text: &'t str) -> Option<(String, &'t str)> {
        let (name, rest) = text.strip_prefix('[')?.split_once("](")?;
        let (target, after) = rest.split_once(')')?;
        let name = self.inline(name);
        let path = target.split_once('#').map_or(target, |(path, _)| path);
        let within = path.strip_suffix(".md").filter(|path| !path.contains('/'));
        let html = match within {
            Some(runbook) => format!("<a href=\"{}\">{name}</a>", escaped(runbook)),
            None => format!("{name} (<code>{}</code>)", escaped(&self.resolved(target))),
        };
        Some((html, after))
    }

    /// A path that is given from the folder, from the root of the repository.
    fn resolved(&self, target: &str) -> String {
        let mut folders: Vec<&str> = self.folder.split('/').collect();
        let mut rest = target;
        while let Some(above) = rest.strip_prefix("../") {
            folders.pop();
            rest = above;
        }
        folders.push(rest);
        folders.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_markup() {
        let text = "# A & B\n\nOne `x<y` line\nand **two**.\n\n- first [C](C.md)\n  goes on\n- see [the\n  \
             page](../d.md#e)\n\n```sh\na < b\n\n- c\n```\nEnd * [of] `it\n";
        let expected = "<h1>A &amp; B</h1>\n<p>One <code>x&lt;y</code> line and <strong>two</strong>.</p>\n\
             <ul>\n<li>first <a href=\"C\">C</a> goes on</li>\n\
             <li>see the page (<code>docs/d.md#e</code>)</li>\n</ul>\n\
             <pre><code>a &lt; b\n\n- c\n</code></pre>\n<p>End * [of] `it</p>\n";
        assert_eq!(html(text, "docs/runbooks"), expected);
    }
}
