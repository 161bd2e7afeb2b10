//! Writes what was measured into docs/PERFORMANCE.md, between its markers, and the plots beside it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result};

use crate::plots::PLOTS;
use crate::results::{Row, median, short};

/// Replaces the generated parts of the page and draws the plots.
pub fn write(root: &Path, scratch: &Path, rows: &[Row]) -> Result<()> {
    let plots = root.join("docs/performance");
    fs::create_dir_all(&plots)?;
    let mut drawn = String::new();
    for plot in PLOTS {
        if plot.draw(rows, &plots)? {
            let _ = writeln!(drawn, "![{}](performance/{})", plot.title, plot.file);
        } else {
            println!("no rows for {}", plot.file);
        }
    }
    let path = root.join("docs/PERFORMANCE.md");
    let mut page = fs::read_to_string(&path).context("reading docs/PERFORMANCE.md")?;
    put(&mut page, "machine", &machine(scratch)?)?;
    put(&mut page, "bars", &bars(rows))?;
    put(&mut page, "plots", &drawn)?;
    put(&mut page, "rows", &all(rows))?;
    fs::write(&path, page)?;
    println!("written: docs/PERFORMANCE.md, docs/performance/");
    Ok(())
}

/// Puts a text between the markers of a part.
fn put(page: &mut String, part: &str, text: &str) -> Result<()> {
    let (begin, end) = (
        format!("<!-- begin: {part} -->\n"),
        format!("<!-- end: {part} -->"),
    );
    let from = page
        .find(&begin)
        .with_context(|| format!("no {begin:?} in the page"))?
        + begin.len();
    let to = page
        .find(&end)
        .with_context(|| format!("no {end:?} in the page"))?;
    page.replace_range(from..to, text);
    Ok(())
}

/// On what it was measured.
fn machine(scratch: &Path) -> Result<String> {
    let cores = thread::available_parallelism()?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .unwrap_or_default()
        / f64::from(1 << 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!(
        "{cores} cores ({model}), {gib:.0} GiB of memory, Linux {}; to overwrite 4 KiB of a file and sync \
         it (`fdatasync`) takes this disk {:.0} µs.\n",
        kernel.trim(),
        probe(scratch)?
    ))
}

/// The median time of a durable overwrite, in microseconds.
fn probe(scratch: &Path) -> Result<f64> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(scratch.join("probe"))?;
    let page = [7; 4096];
    file.write_all_at(&vec![0; 64 << 10], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for at in 0..200 {
        let start = Instant::now();
        file.write_all_at(&page, at % 16 * 4096)?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(took))
}

/// The rows that have a bar.
fn bars(rows: &[Row]) -> String {
    let mut out = "| case | ours | beside | theirs | ratio | at least | |\n| --- | ---: | --- | ---: | ---: | ---: | --- |\n".to_owned();
    for row in rows {
        if let Some(bar) = row.bar {
            let _ = writeln!(
                out,
                "| `{}` | {} {} | {} | {} | {:.2} | {bar:.2} | {} |",
                row.name,
                short(row.ours),
                row.unit,
                row.peer,
                short(row.peer_value),
                row.ratio(),
                row.verdict()
            );
        }
    }
    out
}

/// All rows.
fn all(rows: &[Row]) -> String {
    let mut out = "| case | ours | beside | theirs | ratio |\n| --- | ---: | --- | ---: | ---: |\n"
        .to_owned();
    for row in rows {
        let _ = writeln!(
            out,
            "| `{}` | {} {} | {} | {} | {:.2} |",
            row.name,
            short(row.ours),
            row.unit,
            row.peer,
            short(row.peer_value),
            row.ratio()
        );
    }
    out
}
