use super::routes::ROUTES;

#[test]
fn every_route_has_its_place_on_the_page_and_nothing_else_has() {
    let headings = include_str!("../../ADMIN.md").lines().filter_map(|line| line.strip_prefix("### "));
    let mut described: Vec<String> = headings.map(str::to_owned).collect();
    let methods = |(path, methods): &(&str, &[&str])| {
        methods.iter().map(|method| format!("{method} {path}")).collect::<Vec<_>>()
    };
    let mut routes: Vec<String> = ROUTES.iter().flat_map(methods).collect();
    described.sort();
    routes.sort();
    assert_eq!(described, routes);
}
