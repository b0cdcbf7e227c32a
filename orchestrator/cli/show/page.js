// A table is sorted by a press on a heading, and filtered by words that a row has to have.
const begin = () => {
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
};
begin();
// What is wider than the screen is shown where it is now.
for (const box of document.querySelectorAll('[data-now]')) {
  box.scrollLeft = Number(box.dataset.now) * box.scrollWidth - box.clientWidth / 2;
}
// A page that is served is asked for again and put in the place of this one, unless somebody looks for
// something in it; once nobody answers any more it stays as it was, and says so.
const again = Number(document.body.dataset.again);
const renew = async () => {
  const boxes = [...document.querySelectorAll('input')];
  if (document.hidden || boxes.some((box) => box.value || box === document.activeElement)) return;
  try {
    const answer = await fetch(location.pathname);
    if (!answer.ok) throw new Error(answer.statusText);
    const other = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const places = [...document.querySelectorAll('.scroll,.wide')].map((box) => box.scrollLeft);
    const order = [...document.querySelectorAll('th')].map((head) => head.getAttribute('aria-sort'));
    for (const name of ['header', 'main']) {
      document.querySelector(name).replaceWith(document.importNode(other.querySelector(name), true));
    }
    document.querySelectorAll('.scroll,.wide').forEach((box, number) => {
      box.scrollLeft = places[number] ?? 0;
    });
    begin();
    document.querySelectorAll('th').forEach((head, number) => {
      for (let press = 0; press < ['ascending', 'descending'].indexOf(order[number]) + 1; press += 1) {
        head.firstChild.click();
      }
    });
    delete document.body.dataset.lost;
  } catch {
    document.body.dataset.lost = 'Nobody answers any more: this is how it was.';
  }
};
if (again) setInterval(renew, again * 1000);
