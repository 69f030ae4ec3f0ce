// Small services to keyboards, screen readers, and pages opened from the disk.
(() => {
  // What is wider than the screen scrolls in its own box: let the keyboard reach it.
  const mark = () => {
    for (const box of document.querySelectorAll(".equation > .scroll, article pre, .companion-table, .pst-scrollable-table-container")) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", mark);
  addEventListener("resize", mark);

  // The theme's folding arrows have no name; the bibliography's list has no list items, and the role of its entries is one of the past.
  for (const arrow of document.querySelectorAll(".bd-links summary")) {
    arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
  }
  for (const list of document.querySelectorAll(".citation-list, .citation")) list.removeAttribute("role");
  // What says its name itself needs no other one.
  for (const named of document.querySelectorAll("summary[aria-label='Toggle hidden content'], .search-button-field")) named.removeAttribute("aria-label");
  // The theme's switch has a label; its pictures are none to a screen reader, whatever they are replaced by once the icons have come.
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    const quiet = () => {
      for (const picture of button.querySelectorAll(".theme-switch")) {
        for (const name of ["title", "role", "aria-labelledby"]) picture.removeAttribute(name);
        picture.setAttribute("aria-hidden", "true");
        for (const title of picture.querySelectorAll("title")) title.remove();
      }
    };
    quiet();
    new MutationObserver(quiet).observe(button, { childList: true, subtree: true });
  }
  // The book's name in the sidebar leads home, and is in no landmark; the corner of a table is no header.
  for (const logo of document.querySelectorAll(".bd-sidebar-primary .navbar-brand")) {
    logo.parentElement.setAttribute("role", "navigation");
    logo.parentElement.setAttribute("aria-label", "Home");
  }
  for (const corner of document.querySelectorAll("article thead th")) if (!corner.textContent.trim()) corner.setAttribute("role", "cell");

  // A formula stands thrice in a page, as picture, as structure and as source. What the search shows of it is the structure.
  if (typeof Search !== "undefined") {
    const text = Search.htmlToText;
    Search.htmlToText = (html, anchor) => {
      const page = new DOMParser().parseFromString(html, "text/html");
      for (const double of page.querySelectorAll(".katex-html, annotation, .meaning")) double.remove();
      return text(page.documentElement.outerHTML, anchor);
    };
  }

  // From the disk, the search may not read the pages it has found.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
})();
