//! The paths that a source file names, such as `std::fs::read` or `super::Error`.

use syn::visit::{self, Visit};

/// Returns every path that a source file names outside of its tests, imports included.
pub(crate) fn paths(source: &str) -> Vec<Vec<String>> {
    let file = syn::parse_file(source).unwrap();
    let mut found = Paths::default();
    found.visit_file(&file);
    found.0
}

#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        collect_use(&item.tree, &mut Vec::new(), &mut self.0);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.collect_tokens(&item.tokens.to_string());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.collect_tokens(&list.tokens.to_string());
        }
        visit::visit_attribute(self, attribute);
    }
}

impl Paths {
    /// Collects the names in an unparsed macro or attribute. Each name counts as a path of its own.
    fn collect_tokens(&mut self, tokens: &str) {
        let names = tokens.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
        self.0.extend(names.map(|name| vec![name.to_owned()]));
    }
}

fn collect_use(tree: &syn::UseTree, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect_use(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Name(name) => found.push([prefix.as_slice(), &[name.ident.to_string()]].concat()),
        syn::UseTree::Rename(rename) => found.push([prefix.as_slice(), &[rename.ident.to_string()]].concat()),
        syn::UseTree::Glob(_) => found.push(prefix.clone()),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| collect_use(tree, prefix, found)),
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}
