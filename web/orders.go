package web

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// ordersRoutes are the list of work orders and the form below it.
func ordersRoutes() []route {
	return []route{
		{Method: get, Pattern: "/work-orders", Permission: enroll.MaySeeOrders, live: true, handle: getOrders},
		{Method: post, Pattern: "/work-orders", Permission: enroll.MayRegister, handle: postOrder},
	}
}

// An ordersPage is the list of work orders.
type ordersPage struct {
	Orders      []orderRow
	First, Next string
	Form        orderForm
	Profiles    []string // that a device may have
	Example     string
	Commands    []equivalent
	Error       *refusal
}

// An orderRow is a work order in the list.
type orderRow struct {
	*enroll.WorkOrder
	URL   string
	Quota quotaBar
}

// An orderForm is what was typed to open a work order.
type orderForm struct{ ID, Product, Quantity, Profile string }

// A quotaBar is how far a quota is used.
type quotaBar struct {
	Issued, Quantity int64
	Percent          int64 // whole, rounded down
	Width            string
}

func quotaOf(o *enroll.WorkOrder) quotaBar {
	q := quotaBar{Issued: o.Issued, Quantity: o.Quantity, Width: "0"}
	if o.Quantity > 0 {
		q.Percent = 100 * o.Issued / o.Quantity
		q.Width = pixel(100 * float64(o.Issued) / float64(o.Quantity))
	}
	return q
}

// orderURL returns a work order's page, or what hangs below it.
func orderURL(id string, below ...string) string {
	path := "/work-orders/" + url.PathEscape(id)
	for _, b := range below {
		path += "/" + url.PathEscape(b)
	}
	return path
}

func getOrders(v *visit) (answer, error) { return ordersAnswer(v, orderForm{Profile: "device"}, nil) }

func ordersAnswer(v *visit, form orderForm, r *refusal) (answer, error) {
	all, next, err := v.site.service.WorkOrders(v.ctx(), v.page(50))
	if err != nil {
		return nil, err
	}
	p := ordersPage{Form: form, Error: r, Example: v.site.program("order", "create", "--id", "wo-1042", "--product", "pump", "--quantity", "500")}
	for _, o := range all {
		p.Orders = append(p.Orders, orderRow{WorkOrder: o, URL: orderURL(o.ID), Quota: quotaOf(o)})
	}
	profiles, err := v.site.service.Profiles(v.ctx())
	if err != nil {
		return nil, err
	}
	for _, profile := range profiles {
		if profile.Holder == ca.HolderDevice {
			p.Profiles = append(p.Profiles, profile.Name)
		}
	}
	if v.query("cursor") != "" {
		p.First = "/work-orders"
	}
	if next != "" {
		p.Next = listURL("/work-orders", "cursor", next)
	}
	if v.may(enroll.MayRegister) {
		body := enroll.NewWorkOrder{ID: "wo-1042", Product: "pump", Quantity: 500}
		p.Commands = []equivalent{{"Open a work order", v.site.command("/work-orders", body, "order", "create", "--id", body.ID, "--product", body.Product, "--quantity", "500")}}
	}
	return page{name: "orders", title: "Work orders", data: p}, nil
}

func postOrder(v *visit) (answer, error) {
	form := orderForm{ID: v.form("id"), Product: v.form("product"), Quantity: v.form("quantity"), Profile: v.form("profile")}
	n, err := wholeNumber("quantity", form.Quantity)
	var o *enroll.WorkOrder
	if err == nil {
		o, err = v.site.service.CreateWorkOrder(v.ctx(), v.call(), enroll.NewWorkOrder{
			ID: strings.TrimSpace(form.ID), Product: strings.TrimSpace(form.Product), Quantity: n, Profile: form.Profile})
	}
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		o, err = replayed[enroll.WorkOrder](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return ordersAnswer(v, form, r) })
	}
	return redirect{orderURL(o.ID) + "?note=order-opened"}, nil
}

// wholeNumber reads a number from a form.
func wholeNumber(field, text string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, ca.Errorf(ca.KindMalformed, field, "write a whole number, such as 500", "%.40q is no number", text)
	}
	return n, nil
}
