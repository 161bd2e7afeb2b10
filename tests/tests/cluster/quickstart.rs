//! docs/QUICKSTART.md, word for word. Its section Install was run by the harness before any test.

use codexstore_tests::document::Document;
use codexstore_tests::{namespace, run};

#[test]
fn each_command_of_the_quick_start_prints_what_the_page_says() {
    // The page uses the default namespace. This one keeps tests away that take the operator from others.
    let Some(ns) = namespace("quickstart") else {
        return;
    };
    let page = Document::read(&run::root().join("docs/QUICKSTART.md"));
    assert_eq!(page.titles().first(), Some(&"Install"));
    for title in page.titles().into_iter().skip(1) {
        page.run(title, &ns.cluster.kubeconfig);
    }
}
