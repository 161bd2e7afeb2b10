//! Compression of frame payloads.

/// How payloads are compressed, where it helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Never.
    None,
    /// Zstandard, the default.
    #[default]
    Zstd,
    /// DEFLATE in a gzip wrapper.
    Gzip,
    /// Snappy, raw format.
    Snappy,
}

impl Compression {
    /// All kinds.
    pub const ALL: [Compression; 4] = [
        Compression::None,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Snappy,
    ];

    /// `none`, `zstd`, `gzip` or `snappy`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
        }
    }
}
