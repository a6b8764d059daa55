//! Whether the studies that a person would look at again are those that score badly.

use std::fmt::Write as _;

use super::scores::name;
use crate::evaluation::report_scores::SetAsides;

pub(super) fn write(page: &mut String, set_asides: &SetAsides) {
    let _ = write!(
        page,
        "<h2>Without the least consistent studies</h2>\n<p>Of {} studies further reports were sampled (<code>--consistency</code>). If the report agrees less with \
         them where it is wrong, the scores rise when those studies are set aside.</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>score</th>",
        set_asides.sampled
    );
    for row in &set_asides.rows {
        let _ = write!(
            page,
            "<th class=\"number\">{:.0} % aside ({})</th>",
            row.share * 100.0,
            row.studies
        );
    }
    *page += "</tr>\n";
    let mut group = None;
    for (place, metric) in set_asides.metrics.iter().enumerate() {
        if group.replace(metric.group) != Some(metric.group) {
            let _ = writeln!(
                page,
                "<tr><th colspan=\"{}\">{}</th></tr>",
                set_asides.rows.len() + 1,
                metric.group.title()
            );
        }
        let _ = write!(page, "<tr><td>{}</td>", name(metric));
        for row in &set_asides.rows {
            let cell = match row.estimate(place) {
                Some(of) => format!(
                    "{:.4}<br><span class=\"way\">{}</span>",
                    of.value,
                    of.interval_words()
                ),
                None => "-".to_owned(),
            };
            let _ = write!(page, "<td class=\"number\">{cell}</td>");
        }
        *page += "</tr>\n";
    }
    *page += "</table></div>\n";
}
