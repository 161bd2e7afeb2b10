//! A bar for what takes long, where somebody looks.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of one piece of work, on stderr; nothing if that is no terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// Of bytes. Shown from the first report on; what ends quickly shows nothing.
    pub fn of_bytes(doing: &'static str) -> Bar {
        Bar::new(
            doing,
            "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left",
        )
    }

    /// Of entries.
    pub fn of_entries(doing: &'static str) -> Bar {
        Bar::new(doing, "{msg} {wide_bar} {pos} of {len}, {eta} left")
    }

    /// So much is done, of nobody knows how much.
    pub fn count(&self, done: u64) {
        self.0.unset_length();
        self.0.set_position(done);
    }

    fn new(doing: &'static str, template: &str) -> Bar {
        // Hides itself where stderr is not a terminal.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(doing);
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar(bar)
    }

    /// So much of so much is done.
    pub fn at(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
