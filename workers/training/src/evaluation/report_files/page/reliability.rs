//! How often findings of a stated probability are there, as a page of its own for a classifier that no report goes with.

use super::{charts, escaped};
use crate::evaluation::report_scores::Calibration;

/// The reliability of one classifier on some images.
pub struct ReliabilityPlot<'a> {
    /// Whose, and on which images.
    pub title: String,
    /// Answers by tenths of the stated probability.
    pub bins: &'a Calibration,
    /// What stands below it.
    pub note: String,
}

/// A page of plots, which needs nothing else.
pub fn reliability_page(title: &str, plots: &[ReliabilityPlot<'_>]) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"muted\">On the \
         dashed line a finding is there as often as its probability says; below it, the classifier says too much.</p>\n",
        include_str!("style.css")
    );
    for plot in plots {
        let (name, drawing) = (
            escaped(&plot.title),
            charts::reliability(&plot.title, plot.bins),
        );
        page += &format!(
            "<h2>{name}</h2>\n{drawing}\n<p>{}</p>\n",
            escaped(&plot.note)
        );
    }
    page + "<p class=\"muted\">Research software, not a medical device.</p>\n</body>\n</html>\n"
}
