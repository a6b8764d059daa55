use super::*;

#[test]
fn every_metric_is_rendered_under_its_convention() {
    let stage = metrics().stage(Stage::Findings, None);
    stage.failure(ErrorCode::Model);
    stage.waiting(10, Duration::from_millis(500));
    metrics().serves(&BundleLabel {
        name: "a \"b\"".into(),
        version: "1".into(),
        hash: ContentHash::of(b""),
        group: None,
    });
    let text = metrics().render();
    assert!(
        text.contains("radialog_queue_work_seconds{stage=\"findings\"} 5"),
        "{text}"
    );
    assert!(
        text.contains("radialog_task_failures_total{code=\"model\",stage=\"findings\"} 1"),
        "{text}"
    );
    let v2: QueueGroup = "v2".parse().unwrap();
    let own = "radialog_queue_depth_messages{stage=\"findings\",worker_group=\"\"} 10";
    let of_v2 = "radialog_queue_depth_messages{stage=\"findings\",worker_group=\"v2\"} 3";
    metrics().queues().wait("findings", Some(&v2), Some(3));
    metrics()
        .queues()
        .wait_again("findings", Some(&v2), Some(2));
    let told = metrics().render();
    assert!(told.contains(own) && told.contains(of_v2), "{told}");
    let again = "radialog_queue_retrying_messages{stage=\"findings\",worker_group=\"v2\"} 2";
    assert!(told.contains(again), "{told}");
    for stage in ["findings", "scoring"] {
        metrics().queues().wait(stage, Some(&v2), None);
        metrics().queues().wait_again(stage, Some(&v2), None);
    }
    let told = metrics().render();
    assert!(told.contains(own) && !told.contains("\"v2\""), "{told}");
    let info =
        r#"radialog_bundle_info{bundle="a \"b\"",group="",hash="e3b0c44298fc",version="1"} 1"#;
    assert!(text.contains(info), "{text}");
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next());
    for name in names.flatten() {
        let unit = name.rsplit('_').next();
        assert!(name.starts_with("radialog_"), "{name}");
        assert!(
            matches!(
                unit,
                Some(
                    "seconds"
                        | "total"
                        | "messages"
                        | "tasks"
                        | "items"
                        | "streams"
                        | "connections"
                        | "bytes"
                        | "info"
                )
            ),
            "{name}"
        );
    }
}
