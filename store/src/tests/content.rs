//! Bytes of simulated files, in sectors that all copies of a disk share: a crash state costs what
//! differs in it, and its hash is made of hashes that are there already.

use std::sync::Arc;

/// What a disk writes whole.
pub const SECTOR: usize = 512;

/// One sector that is not wholly zero.
pub struct Sector {
    bytes: [u8; SECTOR],
    hash: u64,
}

/// A sector; none if it is zero.
pub type Shared = Option<Arc<Sector>>;

/// One step of a hash.
pub const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A sector's hash; 0 for zeros.
pub fn hash_of(sector: &Shared) -> u64 {
    sector.as_ref().map_or(0, |sector| sector.hash)
}

fn share(bytes: &[u8; SECTOR]) -> Shared {
    if *bytes == [0; SECTOR] {
        return None;
    }
    let words = bytes.chunks_exact(8);
    let hash = words.fold(1, |hash, word| {
        mix(hash, u64::from_le_bytes(word.try_into().unwrap()))
    });
    Some(Arc::new(Sector {
        bytes: *bytes,
        hash,
    }))
}

/// A file's bytes. What lies behind its end is zero.
#[derive(Clone, Default)]
pub struct Content {
    sectors: Arc<Vec<Shared>>,
    len: usize,
}

impl Content {
    pub fn new(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, bytes);
        content
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn sector(&self, at: usize) -> Shared {
        self.sectors.get(at).cloned().flatten()
    }

    /// Fills `buf`; false if that runs over the end.
    pub fn read(&self, offset: usize, buf: &mut [u8]) -> bool {
        if offset + buf.len() > self.len {
            return false;
        }
        let mut at = 0;
        while at < buf.len() {
            let from = (offset + at) % SECTOR;
            let take = (SECTOR - from).min(buf.len() - at);
            let to = &mut buf[at..at + take];
            match self.sectors.get((offset + at) / SECTOR) {
                Some(Some(sector)) => to.copy_from_slice(&sector.bytes[from..from + take]),
                _ => to.fill(0),
            }
            at += take;
        }
        true
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        assert!(self.read(0, &mut bytes));
        bytes
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let from = (offset + at) % SECTOR;
            let take = (SECTOR - from).min(data.len() - at);
            let index = (offset + at) / SECTOR;
            let mut bytes = match self.sectors.get(index) {
                Some(Some(sector)) => sector.bytes,
                _ => [0; SECTOR],
            };
            bytes[from..from + take].copy_from_slice(&data[at..at + take]);
            self.put(index, share(&bytes));
            at += take;
        }
        self.len = self.len.max(offset + data.len());
    }

    /// Replaces a sector, whatever the length is.
    pub fn put(&mut self, at: usize, sector: Shared) {
        if sector.is_none() && self.sectors.get(at).is_none_or(Option::is_none) {
            return;
        }
        let sectors = Arc::make_mut(&mut self.sectors);
        if sectors.len() <= at {
            sectors.resize(at + 1, None);
        }
        sectors[at] = sector;
    }

    /// Cuts it, or goes on with zeros.
    pub fn set_len(&mut self, len: usize) {
        let whole = len.div_ceil(SECTOR);
        if self.sectors.len() > whole {
            Arc::make_mut(&mut self.sectors).truncate(whole);
        }
        if !len.is_multiple_of(SECTOR)
            && let Some(Some(sector)) = self.sectors.get(whole - 1)
        {
            let mut bytes = sector.bytes;
            bytes[len % SECTOR..].fill(0);
            self.put(whole - 1, share(&bytes));
        }
        self.len = len;
    }

    pub fn hash(&self, hash: u64) -> u64 {
        let used = self.sectors.iter().enumerate();
        used.filter_map(|(at, sector)| Some((at as u64, sector.as_ref()?.hash)))
            .fold(mix(hash, self.len as u64), |hash, (at, sector)| {
                mix(mix(hash, at), sector)
            })
    }
}

#[test]
fn content_is_what_was_written() {
    let mut content = Content::default();
    let mut plain: Vec<u8> = Vec::new();
    let mut rng = super::disk::Rng(3);
    for _ in 0..300 {
        if rng.below(5) == 0 {
            let len = rng.below(5000);
            content.set_len(len);
            plain.resize(len, 0);
        } else {
            let (offset, len) = (rng.below(4000), rng.below(1500));
            let data = vec![rng.next().to_le_bytes()[0] & 3; len];
            content.write(offset, &data);
            plain.resize(plain.len().max(offset + len), 0);
            plain[offset..offset + len].copy_from_slice(&data);
        }
        assert_eq!(content.to_vec(), plain);
        assert_eq!(content.hash(1), Content::new(&plain).hash(1));
    }
}
