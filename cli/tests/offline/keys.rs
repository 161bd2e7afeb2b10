//! `migrate-encryption` and `passphrase`.

use std::fs;

use super::place::{Place, snapshot};

#[test]
fn a_store_is_migrated_to_a_passphrase_which_is_checked_and_changed() {
    let place = Place::with_store();
    fs::write(place.path("first"), "correct horse battery\n").unwrap();
    fs::write(place.path("second"), "another horse battery").unwrap();
    fs::write(place.path("short"), "short").unwrap();
    let migrate = ["migrate-encryption", "data", "--keyring", "keyring"];
    // Nowhere to go to, and two places at once.
    place.run(migrate).fails_with_usage();
    let both = ["--to-unencrypted", "--to-passphrase-file", "first"];
    place.run(migrate.iter().chain(&both)).fails_with_usage();
    let before = snapshot(&place.data());
    let short = ["--to-passphrase-file", "short"];
    let error = place.run(migrate.iter().chain(&short)).fails(6);
    assert!(error.contains("12 to 1024 bytes"), "{error}");
    assert_eq!(snapshot(&place.data()), before);
    let to = ["--to-passphrase-file", "first", "-o", "json"];
    let done = place.run(migrate.iter().chain(&to)).json();
    assert_eq!(
        (&done["keys"], &done["resumed"]),
        (&20.into(), &false.into())
    );
    // A second time finds it done.
    let done = place.run(migrate.iter().chain(&to)).json();
    assert_eq!(done["resumed"], true);

    let check = |file: &str| place.run(["passphrase", "data", "--passphrase-file", file]);
    let text = check("first").ok();
    assert!(text.contains("the passphrase opens all"), "{text}");
    check("second").fails(6);
    let change = ["passphrase", "data", "--passphrase-file", "first"];
    let to = ["--new-passphrase-file", "second", "--iterations", "100000"];
    place.run(change.iter().chain(&to)).ok();
    check("first").fails(6);
    check("second").ok();
    let verify = [
        "verify",
        "data",
        "--passphrase-file",
        "second",
        "-o",
        "json",
    ];
    let json = place.run(verify).json();
    assert_eq!(json["content"]["entries"], 20);
}
