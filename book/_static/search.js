/* Sphinx puts numbers into its index, but drops those of a query: keep them, so that "128" and "30.65" are found. */
if (typeof Search !== "undefined") {
  const parse = Search._parseQuery;
  Search._parseQuery = (query) => {
    const parsed = parse(query);
    const [, searchTerms, , highlightTerms] = parsed;
    for (const term of splitQuery(query).filter((word) => /^\d+$/.test(word))) {
      searchTerms.add(term);
      highlightTerms.add(term);
    }
    return parsed;
  };
}
