use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_reference_is_there() {
    for line in [
        "key generate k --no-password",
        "key inspect k",
        "release pack dir -o out.tar.zst",
        "release publish",
        "release publish dir --release v1 --key a --key b --limit role=web --serial 1,25% --detach --timeout 5m",
        "release list",
        "release show app v1 --json",
        "release verify app v1 --trust t.toml",
        "rollout status app --json",
        "rollout watch app --timeout 10m --json",
        "release publish dir --plan --json",
        "status --json",
        "node list --json",
        "node show web-1",
        "migration show app v1",
        "migration resolve app v1 --as retry --task before",
        "dev up --nodes 5 --dir d --apps a,b --ready-file f",
        "cluster init d --coordinator c.example.net",
        "cluster node d web-2 --labels role=web",
        "completions bash",
        "release publish --supersede -m why",
        "rollout pause app -m why",
        "rollout resume app",
        "rollout promote app --message why",
        "rollout abort app --detach",
        "rollout retry app --serial 2 --timeout 10m",
        "rollout restart app --limit role=web -m why",
        "rollout history app --json",
        "rollback app",
        "rollback app v1 --force --serial 100% --detach -m why",
        "node cordon web-1 -m why",
        "node uncordon web-1",
        "node forget web-1",
        "--config c.toml --context staging status",
    ] {
        let words = std::iter::once("coordctl").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
    }
    for line in ["release publish --serial 0", "release publish --limit web", "migration resolve app v1", "dev up --nodes 0", "nonsense"] {
        let words = std::iter::once("coordctl").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn usage_errors_and_help_have_their_exit_codes() {
    let code = |line: &str| main(std::iter::once("coordctl").chain(line.split_whitespace()).map(OsString::from));
    assert_eq!(format!("{:?}", code("nonsense")), format!("{:?}", ExitCode::from(2)));
    assert_eq!(format!("{:?}", code("--help")), format!("{:?}", ExitCode::SUCCESS));
}
