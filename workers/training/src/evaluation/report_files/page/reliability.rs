//! How often findings of a stated probability are there, as a page of its own for a classifier that no report goes with.

use super::{END, begin, charts, escaped};
use crate::evaluation::report_scores::ReliabilityBins;

/// The reliability of one classifier on some images.
pub struct ReliabilityPlot<'a> {
    /// Whose, and on which images.
    pub title: String,
    /// Answers by tenths of the stated probability.
    pub bins: &'a ReliabilityBins,
    /// What stands below it.
    pub note: String,
}

/// A page of plots, which needs nothing else.
pub fn reliability_page(title: &str, plots: &[ReliabilityPlot<'_>]) -> String {
    let mut page = begin(title);
    page += "<p class=\"muted\">On the dashed line a finding is there as often as its probability says; below it, the classifier says \
             too much.</p>\n";
    for plot in plots {
        let (name, drawing) = (
            escaped(&plot.title),
            charts::reliability(&plot.title, plot.bins),
        );
        page += &format!(
            "<h2>{name}</h2>\n<figure>{drawing}</figure>\n<p>{}</p>\n",
            escaped(&plot.note)
        );
    }
    page + END
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plot_has_a_circle_for_each_tenth_with_answers_where_probability_and_share_are() {
        let answers = [(0.05, false), (0.55, true), (0.55, false)];
        let bins = ReliabilityBins::of(answers.into_iter());
        let plot = |title: &str| ReliabilityPlot {
            title: title.to_owned(),
            bins: &bins,
            note: "a < b".to_owned(),
        };
        let page = reliability_page("Reliability", &[plot("Before"), plot("After")]);
        assert_eq!(page.matches("<svg class=\"small\"").count(), 2);
        assert_eq!(page.matches("<circle").count(), 4);
        assert!(page.contains("2 answers: probability 0.550, share 0.500"));
        assert!(page.contains("<h2>After</h2>") && page.contains("a &lt; b"));
        assert!(page.ends_with(END));
    }
}
