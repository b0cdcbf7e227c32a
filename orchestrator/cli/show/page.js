// A table is sorted by a press on a heading, and filtered by words that a row has to have.
for (const part of document.querySelectorAll('.table')) {
  const body = part.querySelector('tbody'), rows = [...body.rows];
  const heads = [...part.querySelectorAll('th')];
  const value = (row, place) => {
    const cell = row.cells[place];
    if (!cell.classList.contains('n')) return cell.textContent;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const sort = (head, place) => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach((each) => each.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const keyed = rows.map((row) => [value(row, place), row]);
    keyed.sort(([one], [other]) => {
      // What is not known stands last in both directions.
      if (one === null || other === null) return (one === null) - (other === null);
      const order = typeof one === 'number' ? one - other
        : one.localeCompare(other, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...keyed.map(([, row]) => row));
  };
  heads.forEach((head, place) => head.firstChild.addEventListener('click', () => sort(head, place)));
  const box = part.querySelector('input'), out = part.querySelector('output');
  if (!box) continue;
  const all = rows.length.toLocaleString('en');
  box.addEventListener('input', () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    const some = words.length ? `${shown.toLocaleString('en')} of ` : '';
    out.textContent = `${some}${all} ${part.dataset.what}`;
  });
}
