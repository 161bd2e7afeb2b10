//! docs/QUICKSTART.md, word for word. Its section Install was run by the harness before any test.

use codexstore_tests::document::Document;
use codexstore_tests::{cluster, run};

#[test]
fn each_command_of_the_quick_start_prints_what_the_page_says() {
    // Not in a namespace of its own: the page uses the default one.
    let Some(cluster) = cluster() else { return };
    let page = Document::read(&run::root().join("docs/QUICKSTART.md"));
    assert_eq!(page.titles().first(), Some(&"Install"));
    for title in page.titles().into_iter().skip(1) {
        page.run(title, &cluster.kubeconfig);
    }
}
