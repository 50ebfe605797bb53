//! The status page: one file made of three, with a policy under which no other script can run.
//!
//! Style and script are part of the page, so that it needs nothing from anywhere else. Both carry a nonce drawn for each
//! answer: should a peer's text ever get into the page as markup, no script in it would run.

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page and the policy that goes with it.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) policy: String,
    pub(super) html: String,
}

/// A new page for each answer.
pub(super) fn page() -> Result<Page, getrandom::Error> {
    let nonce = format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = HTML.replace("{{nonce}}", &nonce).replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
    Ok(Page { policy, html })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_names_nothing_outside() {
        let Page { policy, html } = page().unwrap();
        assert!(!html.contains("{{") && !html.contains("}}"), "a placeholder is left");
        // This is the name of a namespace, which nobody fetches.
        let outside = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("://") && !outside.contains("src=") && !outside.contains("@import"));
        for way_in in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!html.contains(way_in), "text of peers would become markup: {way_in}");
        }
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn no_two_pages_have_the_same_nonce() {
        assert_ne!(page().unwrap().policy, page().unwrap().policy);
    }
}
