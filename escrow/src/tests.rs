use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};

use super::*;

fn keyring(keys: u16) -> Keys {
    let mut keyring = Keys::new("shop/orders", "k0");
    for n in 0..keys {
        let size = [16, 24, 32][usize::from(n % 3)];
        keyring.insert(format!("k{n}"), &vec![n.to_be_bytes()[1]; size]);
    }
    keyring
}

fn sealed(keyring: &Keys, to: &[&Identity]) -> String {
    let to: Vec<_> = to.iter().map(|i| i.recipient().unwrap()).collect();
    seal(keyring, &to).unwrap()
}

#[test]
fn each_recipient_opens_it_by_himself_and_nobody_else_does() {
    let all: Vec<_> = (0..3).map(|_| Identity::random().unwrap()).collect();
    let text = sealed(&keyring(4), &[&all[0], &all[1]]);
    for (n, identity) in all.into_iter().enumerate() {
        let opened = unseal(text.as_bytes(), &[identity]);
        if n < 2 {
            assert_eq!(opened.unwrap(), keyring(4));
        } else {
            assert_eq!(opened.unwrap_err(), Error::NotForYou);
        }
    }
    let two = [Identity::random().unwrap(), Identity::random().unwrap()];
    let text = sealed(&keyring(1), &[&two[1]]);
    assert_eq!(unseal(text.as_bytes(), &two).unwrap(), keyring(1));
    assert_eq!(unseal(text.as_bytes(), &[]).unwrap_err(), Error::NotForYou);
}

#[test]
fn two_seals_of_one_keyring_have_nothing_in_common() {
    let identity = Identity::random().unwrap();
    let of = || armor::read(sealed(&keyring(2), &[&identity]).as_bytes()).unwrap();
    let (one, other) = (of(), of());
    let header = |bytes: &[u8]| bytes.windows(3).position(|w| w == b"---").unwrap();
    assert_eq!(header(&one), header(&other));
    let differs = |from: usize, to: usize| one[from..to] != other[from..to];
    // The share, the wrapped key, the MAC, the nonce, and the content.
    let end = header(&one);
    let begin = header::MAGIC.len() + "-> X25519 ".len();
    assert!(differs(begin, begin + 43) && differs(begin + 44, end));
    assert!(differs(end + 4, end + 47) && differs(end + 48, end + 64));
    assert!(differs(end + 64, one.len()));
}

#[test]
fn a_changed_or_cut_file_is_refused_wherever_that_is() {
    let identity = [Identity::random().unwrap()];
    let good = armor::read(sealed(&keyring(2), &[&identity[0]]).as_bytes()).unwrap();
    assert!(unseal(&good, &identity).is_ok());
    for at in 0..good.len() {
        for bit in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert!(unseal(&bad, &identity).is_err(), "byte {at}, bit {bit}");
        }
        assert!(unseal(&good[..at], &identity).is_err(), "cut at {at}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(unseal(&longer, &identity).unwrap_err(), Error::Forged);
    let text = armor::write(&good);
    assert!(unseal(&text.as_bytes()[..text.len() - 5], &identity).is_err());
    let windows = format!("\r\n{}\r\n", text.replace('\n', "\r\n"));
    assert_eq!(unseal(windows.as_bytes(), &identity).unwrap(), keyring(2));
}

#[test]
fn a_keyring_of_more_than_one_chunk_is_whole() {
    let identity = [Identity::random().unwrap()];
    let large = keyring(1024);
    assert!(large.to_json().len() > 32 << 10);
    let mut long = Keys::new("shop/orders", "a".repeat(64));
    for n in 0..1024 {
        long.insert(format!("{n:064}"), &[7; 32]);
    }
    long.insert("a".repeat(64), &[7; 32]);
    let to = [identity[0].recipient().unwrap()];
    assert_eq!(
        seal(&long, &to).unwrap_err(),
        Error::Keyring("it has too many keys")
    );
    let mut fits = Keys::new("shop/orders", format!("{:064}", 0));
    for n in 0..1024 {
        fits.insert(format!("{n:064}"), &[7; 32]);
    }
    assert!(fits.to_json().len() > 64 << 10);
    for keyring in [large, fits] {
        let text = seal(&keyring, &to).unwrap();
        assert!(text.len() < MAX_SEALED);
        assert_eq!(unseal(text.as_bytes(), &identity).unwrap(), keyring);
    }
    // The end of a chunk that is not the last is not the end.
    let bytes = armor::read(seal(&keyring(1024), &to).unwrap().as_bytes()).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\n---").unwrap() + 1 + 48;
    if bytes.len() > end + 16 + (64 << 10) + 16 {
        let cut = &bytes[..end + 16 + (64 << 10) + 16];
        assert_eq!(unseal(cut, &identity).unwrap_err(), Error::Forged);
    }
}

#[test]
fn parts_for_other_kinds_of_recipients_are_passed_over() {
    let identity = Identity::random().unwrap();
    let key = FileKey::random().unwrap();
    let header = header::write(&key, &[identity.recipient().unwrap()]).unwrap();
    let header = String::from_utf8(header).unwrap();
    let (magic, rest) = header.split_once('\n').unwrap();
    let (own, _) = rest.split_once("---").unwrap();
    let other = format!("-> some-kind a b c\n{}\nAAAA\n-> empty\n\n", "A".repeat(64));
    for parts in [format!("{other}{own}"), format!("{own}{other}")] {
        // With a MAC of its own, as another program would have written it.
        let mut bytes = format!("{magic}\n{parts}---").into_bytes();
        let mac_key = derive(key.0.as_ref(), &[], b"header").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(mac_key.as_ref()).unwrap();
        mac.update(&bytes);
        let mac = STANDARD_NO_PAD.encode(mac.finalize().into_bytes());
        bytes.extend(format!(" {mac}\n").into_bytes());
        payload::write(&key, keyring(1).to_json().as_bytes(), &mut bytes).unwrap();
        let opened = unseal(&bytes, &[Identity::parse(&identity.to_text()).unwrap()]);
        assert_eq!(opened.unwrap(), keyring(1));
    }
}

#[test]
fn keys_of_age_are_read_and_what_is_none_is_not_repeated() {
    let identity = Identity::random().unwrap();
    let text = identity.to_text();
    assert!(text.starts_with("AGE-SECRET-KEY-1") && text.len() == 74);
    assert_eq!(format!("{identity:?}"), "Identity(…)");
    let recipient = identity.recipient().unwrap();
    assert_eq!(
        Recipient::parse(&format!(" {recipient}\n")).unwrap(),
        recipient
    );
    let why = Recipient::parse(&text).unwrap_err().to_string();
    assert!(!why.contains(&text[20..40]), "{why}");
    let file = format!("# created: today\n# public key: {recipient}\n\n{}\n", *text);
    assert_eq!(identities(&file).unwrap().len(), 1);
    for (file, why) in [
        ("# nothing\n", "has none"),
        ("age1abc", "begins with something else"),
        (&file.replace("AGE-SECRET", "age-secret"), "mixed"),
    ] {
        assert!(
            identities(file).unwrap_err().to_string().contains(why),
            "{file}"
        );
    }
    // Zero is a point that agrees on nothing with anybody.
    let zero = bech32::encode("age", &[0; 32]);
    let why = Recipient::parse(&zero).unwrap_err().to_string();
    assert!(why.contains("no identity has"), "{why}");
}

#[test]
fn what_is_no_keyring_is_neither_sealed_nor_taken() {
    let to = [Identity::random().unwrap().recipient().unwrap()];
    assert_eq!(seal(&keyring(1), &[]).unwrap_err(), Error::Recipients);
    let many = vec![to[0].clone(); MAX_RECIPIENTS + 1];
    assert_eq!(seal(&keyring(1), &many).unwrap_err(), Error::Recipients);
    for id in ["", ".a", "current", "a/b", "..", "a\"b", &"a".repeat(65)] {
        let mut keys = keyring(1);
        keys.insert(id, &[7; 32]);
        assert!(seal(&keys, &to).is_err(), "{id}");
    }
    let mut short = keyring(1);
    short.insert("short", &[7; 15]);
    assert!(seal(&short, &to).is_err());
    assert!(seal(&Keys::new("shop/orders", "k"), &to).is_err());
    let json = keyring(2).to_json();
    assert_eq!(Keys::from_json(json.as_bytes()).unwrap(), keyring(2));
    assert_eq!(
        format!("{:?}", keyring(2)),
        r#"Keys(shop/orders, current k0, ["k0", "k1"])"#
    );
    for (from, to) in [
        ("Keyring\": 1", "Keyring\": 2"),
        ("\"k1\"", "\"../k1\""),
        ("AQEB", "!!!!"),
        ("\"k0\",", "\"k9\","),
        ("shop", "sh\\nop"),
    ] {
        let bad = json.replacen(from, to, 1);
        assert_ne!(*json, bad, "{from}");
        assert!(Keys::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}
