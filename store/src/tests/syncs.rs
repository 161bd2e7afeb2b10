//! What a sync is for, so that each can be left out alone.

use super::content::SECTOR;
use super::disk::{Effect, Inode, NameEffect};
use crate::format::{FRAMES_AT, PAGE};

/// The syncs of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncKind {
    /// Of the zeros of a journal that was filled ahead.
    Fill,
    /// Of a journal's header.
    Header,
    /// Of a key slot alone: what a rewrap writes.
    KeySlot,
    /// Of a frame of batches.
    Frame,
    /// Of the frame that hands over to the next journal.
    HandOver,
    /// Of a closing frame.
    Close,
    /// Of what was recovered.
    Recovered,
    Image,
    Epoch,
    /// Of the directory, for the name of a journal or segment.
    LogName,
    /// Of the directory, for an image's name.
    ImageName,
    /// Of the directory, for a claim.
    ClaimName,
    /// Of the directory, for what a claim says.
    EpochName,
}

/// Syncs that do nothing.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    Kind(SyncKind),
    /// Those of files with this in their name, or of the directory: `"."`.
    Part(&'static str),
}

impl Broken {
    pub fn is(self, name: &str, kind: Option<SyncKind>) -> bool {
        match self {
            Broken::Kind(broken) => kind == Some(broken),
            Broken::Part(".") => name == ".",
            Broken::Part(part) => name.contains(part),
        }
    }
}

impl From<SyncKind> for Broken {
    fn from(kind: SyncKind) -> Broken {
        Broken::Kind(kind)
    }
}

impl From<&'static str> for Broken {
    fn from(part: &'static str) -> Broken {
        Broken::Part(part)
    }
}

fn is_log(name: &str) -> bool {
    name.starts_with("journal-") || name.starts_with("ledger-")
}

impl SyncKind {
    pub fn of_file(name: &str, inode: &Inode) -> Option<SyncKind> {
        let slots = PAGE / SECTOR..usize::try_from(FRAMES_AT).unwrap() / SECTOR;
        let in_slot =
            |effect: &Effect| matches!(effect, Effect::Sector(at, _) if slots.contains(at));
        let mut pending = inode.pending.iter().map(|(_, effect)| effect).peekable();
        if pending.peek().is_some() && pending.all(in_slot) {
            return Some(SyncKind::KeySlot);
        }
        if name.starts_with("image-") {
            return Some(SyncKind::Image);
        }
        if name.starts_with("epoch-") {
            return Some(SyncKind::Epoch);
        }
        let mut len = inode.durable.len();
        let mut grows = false;
        let mut frame = None;
        let first = usize::try_from(FRAMES_AT).unwrap() / SECTOR;
        for (_, effect) in &inode.pending {
            match effect {
                Effect::Length(to) if *to < len => return Some(SyncKind::Recovered),
                Effect::Length(to) => {
                    len = *to;
                    grows = true;
                }
                Effect::Sector(at, _) if *at < first => return Some(SyncKind::Header),
                Effect::Sector(at, _) => frame = frame.or(Some(*at)),
            }
        }
        if grows {
            return Some(SyncKind::Fill);
        }
        let mut head = [0; 20];
        if !inode.live.read(frame? * SECTOR, &mut head) {
            return None;
        }
        // Empty but for its inner fields, and the tag if there is one.
        let empty = matches!(head[4..8], [40 | 56, 0, 0, 0]);
        Some(match head[16] {
            3 => SyncKind::Close,
            _ if empty => SyncKind::HandOver,
            _ => SyncKind::Frame,
        })
    }

    pub fn of_directory(pending: &[(u64, NameEffect)]) -> Option<SyncKind> {
        match pending.last().map(|(_, effect)| effect)? {
            NameEffect::Link(name, _) if is_log(name) => Some(SyncKind::LogName),
            NameEffect::Link(name, _) if name.starts_with("epoch-") => Some(SyncKind::ClaimName),
            NameEffect::Rename(_, to, _) if to.starts_with("image-") => Some(SyncKind::ImageName),
            NameEffect::Rename(_, to, _) if to.starts_with("epoch-") => Some(SyncKind::EpochName),
            _ => None,
        }
    }
}
